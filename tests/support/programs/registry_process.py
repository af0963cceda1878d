"""A real `registry serve` on a free loopback port, that a test may kill and start again on the same data."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from typer.testing import CliRunner

from registry.cli.main import app
from registry.contracts.wire import Digest, digest_of
from tests.support.network.broker import free_port, wait_for_port
from tests.support.programs import warm_start

PROGRAM = Path(sys.executable).parent / "registry"


class RegistryProcess:
    """INVARIANT: port, data folder and administrator's token stay the same across `kill` and `start`."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = environment or {}
        self._process: warm_start.Started | subprocess.Popen[bytes] | None = None

    def start(self) -> RegistryProcess:
        """Starts it and waits until it listens."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MODELFLEET_")} | self._environment
        argv = ["registry", "serve", "--port", str(self.port), "--data-dir", str(self.data)]
        self._process = warm_start.start(argv, environment, self.folder / "registry.log")
        wait_for_port(self.port, 60)
        return self

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    @property
    def admin_token(self) -> str:
        """What the first start wrote."""
        return (self.data / "admin.token").read_text().strip()

    def client(self, token: str | None = None, **options: Any) -> httpx.Client:
        """An administrator's client, or that of another token; `""`: nobody's."""
        token = self.admin_token if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False, **options)

    def kill(self) -> None:
        """SIGKILL, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
            self._process = None

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after 15 s."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None


@dataclass(frozen=True)
class Ended:
    """A start that failed."""

    returncode: int
    stderr: str


def failed_start(folder: Path, *arguments: str, **environment: str | None) -> Ended:
    """`registry serve` that is to be refused, in this process, as a process of its own takes a second."""
    given = ["serve", "--port", "0", "--data-dir", str(folder), *arguments]
    done = CliRunner().invoke(app, given, env=environment)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Ended(done.exit_code, done.stderr)


def put_blob(client: httpx.Client, data: bytes, headers: dict[str, str] | None = None) -> Digest:
    """Upload a blob in one request, unless it is there; `headers` may name another's credential."""
    digest, more = digest_of(data), headers or {}
    body = {"digest": digest, "size": len(data)}
    view = client.post("/v1/uploads", json=body, headers=more).raise_for_status().json()
    if not view["complete"]:
        offset = {"Upload-Offset": str(view["offset"]), **more}
        answer = client.patch(f"/v1/uploads/{view['id']}", content=data[view["offset"] :], headers=offset)
        assert answer.raise_for_status().json()["complete"], answer.text
    return digest


def manifest_of(model: str, version: str, data: bytes, **more: Any) -> dict[str, Any]:
    """A manifest of one ONNX variant for CPU hosts, whose file is `data`."""
    file = {"path": "model.onnx", "digest": "sha256:" + hashlib.sha256(data).hexdigest(), "size": len(data)}
    variant = {"name": "cpu", "format": "onnx", "target": "cpu", "entry": "model.onnx", "files": [file]}
    return {"model": model, "version": version, "variants": [variant], **more}


def publish(client: httpx.Client, model: str, version: str, data: bytes) -> httpx.Response:
    """Upload `data` and publish it as the only file of a version."""
    put_blob(client, data)
    return client.put(f"/v1/models/{model}/versions/{version}", json=manifest_of(model, version, data))
