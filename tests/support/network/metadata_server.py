"""A registry's signed metadata over real HTTP, served by whoever pleases: old, mixed, endless or a byte at a time."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Files = Mapping[str, bytes]
"""By name."""


class MetadataServer:
    """Serves `image` and `director`; what is in `endless` never ends, what is in `slow` never comes whole."""

    def __init__(self) -> None:
        self.image: Files = {}
        self.director: Files = {}
        self.endless: set[str] = set()
        self.slow: set[str] = set()
        self.asked: list[str] = []
        self.sent = 0
        self.url = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        _, _, _, repository, name = request.path.split("/", 4)
        self.asked.append(f"{repository}/{name}")
        files = self.image if repository == "image" else self.director
        if name in self.endless:
            self._begin(request, 1 << 40)
            while True:
                request.wfile.write(b" " * 65536)
                self.sent += 65536
        body = files.get(name)
        if body is None:
            problem = {"type": "about:blank", "title": "not found", "status": 404, "code": "not_found"}
            body, status, kind = json.dumps(problem).encode(), 404, "application/problem+json"
        else:
            status, kind = 200, "application/json"
        self._begin(request, len(body), status, kind)
        for piece in (body[at : at + 1] for at in range(len(body))) if name in self.slow else [body]:
            request.wfile.write(piece)
            request.wfile.flush()
            if name in self.slow:
                time.sleep(0.05)

    @staticmethod
    def _begin(request: BaseHTTPRequestHandler, length: int, status: int = 200, kind: str = "application/json") -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(length))
        request.end_headers()
        request.wfile.flush()


@contextlib.contextmanager
def metadata_server() -> Iterator[MetadataServer]:
    """Runs while the context lasts."""
    serving = MetadataServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                serving.answer(self)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        serving.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield serving
        finally:
            server.shutdown()
            thread.join()
