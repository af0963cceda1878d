"""What a job made goes to the registry, whatever cuts the upload."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agent.adapters.network import offers
from agent.adapters.network.registry_client import RegistryClient
from registry.contracts.api.answers import PROBLEM_TYPE
from registry.contracts.backoff import Backoff
from registry.contracts.wire import digest_of
from tests.fakes.registry_simulator import one_file_manifest

MODEL = b"0123456789" * 1000


class Registry:
    """Lacks one file; forgets its upload session after the first request that brings bytes."""

    def __init__(self) -> None:
        self.received = b""
        self.sessions = 0
        self.forgot = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                done = len(outer.received) == len(MODEL)
                self.say(200, {"missing": [] if done else [FILE], "manifest": digest_of(b"m") if done else None})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                outer.sessions += 1
                self.say(200, outer.view())

            def do_PATCH(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if not outer.forgot:
                    outer.forgot = True
                    outer.received = body[:4000]
                    problem = {"title": "gone", "status": 404, "code": "not_found"}
                    return self.say(404, problem, PROBLEM_TYPE)
                assert int(self.headers["upload-offset"]) == len(outer.received)
                outer.received += body
                return self.say(200, outer.view())

            def say(self, status: int, document: object, kind: str = "application/json") -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def view(self) -> dict[str, object]:
        done = len(self.received) == len(MODEL)
        return {
            "id": "u1",
            "digest": FILE["digest"],
            "size": len(MODEL),
            "offset": len(self.received),
            "complete": done,
        }


FILE = {"path": "model.onnx", "size": len(MODEL), "digest": digest_of(MODEL)}


def test_an_upload_that_the_registry_forgot_is_begun_again_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offers, "PAUSE", Backoff(0.01, 0.01))
    (tmp_path / "model.onnx").write_bytes(MODEL)
    registry = Registry()
    url = f"http://127.0.0.1:{registry.server.server_port}"
    client = RegistryClient(url, "edge", token=None, ca_file=None, timeout_s=10.0)
    told: list[int] = []
    try:
        variant = one_file_manifest(MODEL).variants[0]
        manifest = offers.give_variant(client, "j1", variant, tmp_path, cancel=threading.Event(), tell=told.append)
    finally:
        client.close()
        registry.server.shutdown()
        registry.server.server_close()
    assert (manifest, registry.received, registry.sessions) == (digest_of(b"m"), MODEL, 2)
    assert told[-1] == len(MODEL)
