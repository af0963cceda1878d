"""A real registry with a broker, as tests of the fleet ask it: short requests, models to deploy, facts to report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from sqlalchemy import text

from registry.db.engine import Database
from tests.support.programs.registry_process import RegistryProcess, put_blob

Found = TypeVar("Found")


def eventually(look: Callable[[], Found], seconds: float = 60.0) -> Found:
    """What `look` returns as soon as it is true; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s; last seen: {found!r}"
        time.sleep(0.02)


class FleetRegistry:
    """Started by `with`; may be killed and started again inside it."""

    def __init__(self, folder: Path, broker_port: int | None, prefix: str = "test/v1", **environment: str) -> None:
        """`environment`: more settings for the process."""
        self.prefix = prefix
        self.broker_port = broker_port or 0
        if broker_port is not None:
            environment |= {
                "MODELFLEET_REGISTRY_MQTT__HOST": "127.0.0.1",
                "MODELFLEET_REGISTRY_MQTT__PORT": str(broker_port),
                "MODELFLEET_REGISTRY_MQTT__PREFIX": prefix,
                "MODELFLEET_REGISTRY_MQTT__CLIENT_ID": f"registry-{prefix.replace('/', '-')}"[:64],
            }
        self.process = RegistryProcess(folder, environment)
        self._database_url = environment.get("MODELFLEET_REGISTRY_DATABASE_URL")
        self.http: httpx.Client

    def __enter__(self) -> FleetRegistry:
        """Ready to answer."""
        self.process.start()
        self.http = self.process.client()
        return self

    def __exit__(self, *_: object) -> None:
        """Stopped, whatever happened."""
        self.process.stop()
        self.http.close()

    def ask(self, method: str, path: str, body: Any = None, status: int | None = None, **kwargs: Any) -> Any:
        """The JSON of an answer, which has this status, or any below 400."""
        answer = self.http.request(method, path, json=body, **kwargs)
        assert answer.status_code == status if status else answer.status_code < 400, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def sql(self, statement: str, **values: Any) -> list[Any]:
        """Runs one statement on the registry's database, beside the registry: the rows that it brings."""
        database = Database(self._database_url or f"sqlite:///{self.process.data / 'registry.db'}")
        try:
            with database.write() as session:
                result = session.connection().execute(text(statement), values)
                return list(result) if result.returns_rows else []
        finally:
            database.close()

    def mqtt(self) -> str:
        """What /readyz says of the broker."""
        return str(self.ask("GET", "/readyz")["mqtt"])

    def publish(self, model: str, version: str, *variants: dict[str, Any], content: bytes = b"model") -> None:
        """Publish a version whose variants share one blob."""
        digest = put_blob(self.http, content)
        file = {"path": "model.onnx", "digest": digest, "size": len(content)}
        manifest = {
            "model": model,
            "version": version,
            "variants": [{"entry": "model.onnx", "files": [file], "format": "onnx", **v} for v in variants],
        }
        self.ask("PUT", f"/v1/models/{model}/versions/{version}", manifest)


def facts(**changes: Any) -> dict[str, Any]:
    """A host that runs ONNX on its CPU."""
    backend = {
        "name": "onnxruntime",
        "usable": True,
        "version": "1.20",
        "formats": ["onnx"],
        "targets": ["cpu"],
        "max_onnx_ir": 10,
        "max_onnx_opset": 21,
    }
    return {"os": "linux", "arch": "x86_64", "cpu_count": 4, "backends": [backend], **changes}


def as_json(value: Any) -> bytes:
    """For a payload."""
    return json.dumps(value).encode()
