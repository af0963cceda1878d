"""A registry as a device sees it, over real HTTP on loopback, that can be told to misbehave.

Edit it and the client sees it: `sim.desired = ...`, `sim.fault("blobs", Truncate(1000))`. Each fault is used once.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from registry.contracts import paths
from registry.contracts.api.answers import PROBLEM_TYPE, STATUS_OF_CODE, Problem
from registry.contracts.catalogue.manifest import FileRef, Manifest, Variant
from registry.contracts.device.messages import Desired
from registry.contracts.wire import digest_of


@dataclass(frozen=True)
class Status:
    """Answers with a status instead."""

    code: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Refuse:
    """Answers with a problem document, as the registry itself refuses."""

    code: str
    detail: str = ""


@dataclass(frozen=True)
class Page:
    """Answers with a status and a page, as something between the device and the registry does."""

    status: int
    data: bytes = b"<html><h1>Not here</h1></html>"
    content_type: str = "text/html; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trickle:
    """Sends a byte, then a byte a tenth of a second until the simulator's gate opens."""

    head: bool = False
    """Even the answer's head comes so."""


@dataclass(frozen=True)
class Body:
    """Answers 200 with other bytes."""

    data: bytes


@dataclass(frozen=True)
class Truncate:
    """Promises the whole body, sends only so many bytes, and hangs up."""

    after: int


@dataclass(frozen=True)
class Stall:
    """Sends so many bytes, then nothing until the simulator's gate opens."""

    after: int


@dataclass(frozen=True)
class Chunked:
    """Sends the body in chunks, without a length."""


Fault = Status | Refuse | Page | Trickle | Body | Truncate | Stall | Chunked


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class RegistrySimulator:
    """`start` before, `stop` after."""

    def __init__(self, token: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.desired: Desired | None = None
        self.seen: list[Seen] = []
        self.sent_bytes = 0
        self.gate = threading.Event()
        self.stalled = threading.Event()
        self._token = token
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        simulator = self

        class Handler(_Handler):
            sim = simulator

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "http"
        if tls is not None:
            self._scheme = "https"
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> RegistrySimulator:
        self._thread.start()
        return self

    def stop(self) -> None:
        """May be called twice."""
        self.gate.set()
        if not self._thread.is_alive():
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fault(self, kind: str, *faults: Fault) -> None:
        """The next requests to `blobs`, `manifests`, `desired`, `facts` or `reports` go wrong like this."""
        self._faults[kind].extend(faults)

    def publish(self, manifest: Manifest, *blobs: bytes) -> str:
        """Has these; the manifest's digest."""
        for blob in blobs:
            self.blobs[digest_of(blob)] = blob
        self.manifests[manifest.canonical_digest()] = manifest.canonical()
        return manifest.canonical_digest()

    def next_fault(self, kind: str) -> Fault | None:
        waiting = self._faults[kind]
        return waiting.popleft() if waiting else None

    def requests(self, kind: str) -> list[Seen]:
        return [seen for seen in self.seen if f"/{kind}" in seen.path]

    def allows(self, headers: dict[str, str]) -> bool:
        return self._token is None or headers.get("authorization") == f"Bearer {self._token}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    sim: RegistrySimulator

    def do_GET(self) -> None:
        seen = self._see()
        kind, _, name = seen.path.removeprefix(paths.API + "/").partition("/")
        kind = {"devices": name.rpartition("/")[2]}.get(kind, kind)
        fault = self.sim.next_fault(kind)
        if isinstance(fault, Status):
            self._answer(fault.code, b'{"code":"internal"}', fault.headers)
        elif isinstance(fault, Refuse | Page):
            self._go_wrong(fault)
        elif isinstance(fault, Trickle):
            self._trickle(fault)
        elif isinstance(fault, Body):
            self._answer(200, fault.data, {})
        elif not self.sim.allows(seen.headers):
            self._refuse("unauthorized", "No such token.", "it ended")
        elif kind == "desired":
            self._desired(seen)
        else:
            held = {"blobs": self.sim.blobs, "manifests": self.sim.manifests}.get(kind, {}).get(
                name.replace("%3A", ":")
            )
            self._blob(name, held, seen, fault) if held is not None else self._refuse("not_found")

    def do_PUT(self) -> None:
        self._take("facts")

    def do_POST(self) -> None:
        self._take("reports")

    def _take(self, kind: str) -> None:
        self._see()
        fault = self.sim.next_fault(kind)
        if isinstance(fault, Refuse | Page):
            self._go_wrong(fault)
        else:
            self._answer(fault.code if isinstance(fault, Status) else 204, b"", {})

    def _refuse(self, code: str, detail: str = "", *errors: str) -> None:
        status = STATUS_OF_CODE[code]
        problem = Problem(title=code, status=status, detail=detail, code=code, errors=errors)
        self._answer(status, problem.canonical(), {"Content-Type": PROBLEM_TYPE})

    def _go_wrong(self, fault: Refuse | Page) -> None:
        if isinstance(fault, Refuse):
            self._refuse(fault.code, fault.detail)
        else:
            self._answer(fault.status, fault.data, {"Content-Type": fault.content_type, **fault.headers})

    def _trickle(self, fault: Trickle) -> None:
        """Everything but the end of a good answer, a byte at a time."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
        try:
            if not fault.head:
                self.wfile.write(head)
            for byte in head + b" " * 100_000:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.sim.gate.wait(0.1):
                    return
        except OSError:
            self.close_connection = True

    def _see(self) -> Seen:
        length = int(self.headers.get("content-length", 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, self.path, headers, self.rfile.read(length))
        self.sim.seen.append(seen)
        return seen

    def _desired(self, seen: Seen) -> None:
        if self.sim.desired is None:
            self._refuse("not_found")
            return
        data = self.sim.desired.canonical()
        etag = f'"{digest_of(data)}"'
        if seen.headers.get("if-none-match") == etag:
            self._answer(304, b"", {"ETag": etag})
        else:
            self._answer(200, data, {"ETag": etag, "Content-Type": "application/json"})

    def _blob(self, digest: str, data: bytes, seen: Seen, fault: Fault | None) -> None:
        kind = "application/json" if data.startswith(b"{") else "application/octet-stream"
        headers, status, start = {"ETag": f'"{digest}"', "Content-Type": kind}, 200, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", seen.headers.get("range", ""))
        if wanted and seen.headers.get("if-range", f'"{digest}"') == f'"{digest}"':
            start, status = int(wanted[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._answer(status, data[start:], headers, fault)

    def _answer(self, status: int, data: bytes, headers: dict[str, str], fault: Fault | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if isinstance(fault, Chunked):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(data), 10_000):
                piece = data[start : start + 10_000]
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
            return
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        part = data[: fault.after] if isinstance(fault, Truncate | Stall) else data
        try:
            self.wfile.write(part)
            self.sim.sent_bytes += len(part)
            if isinstance(fault, Stall):
                self.wfile.flush()
                self.sim.stalled.set()
                self.sim.gate.wait(30)
                self.wfile.write(data[fault.after :])
        except OSError:
            self.close_connection = True
        if isinstance(fault, Truncate):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Quiet."""


def one_file_manifest(data: bytes, *, model: str = "lenet", version: str = "1.0.0", **variant: Any) -> Manifest:
    """A version of one variant of one ONNX file."""
    ref = FileRef(path="model.onnx", digest=digest_of(data), size=len(data))
    fields = {"name": "onnx-cpu", "format": "onnx", "target": "cpu", "entry": "model.onnx", "files": (ref,), **variant}
    return Manifest(model=model, version=version, variants=(Variant.model_validate(fields),))
