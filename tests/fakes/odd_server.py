"""An HTTP server on loopback that answers every request with the same bytes: what no registry should say."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class OddServer:
    """Answers `body` with `status` to everything, and keeps the headers of every request."""

    def __init__(self, status: int, body: bytes, content_type: str = "application/json", **headers: str) -> None:
        self.seen: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                outer.seen.append({key.lower(): value for key, value in self.headers.items()})
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                for key, value in headers.items():
                    self.send_header(key, value)
                self.end_headers()
                with suppress(ConnectionError):  # a client that has heard enough hangs up
                    self.wfile.write(body)

            def __getattr__(self, name: str) -> Callable[[], None]:
                if name.startswith("do_"):
                    return self._answer
                raise AttributeError(name)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def __enter__(self) -> OddServer:
        """Answers already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stopped."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)
