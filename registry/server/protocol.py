"""uvicorn's HTTP protocol with the bounds that it lacks: header size, slow headers, slow readers, connections.

It overrides callbacks of uvicorn's `HttpToolsProtocol`; tests/integration/registry/test_limits.py fails when
uvicorn changes them.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from registry.config import Limits
from registry.server.problems import MEDIA_TYPE, problem_response


class _RefusedError(Exception):
    """Stops the parser; `send_400_response` then says why."""


class BoundedHttp(HttpToolsProtocol):
    """One connection. `limits` is set by `bounded_http`."""

    limits: Limits
    _timer: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _refusal: tuple[str, str, int | None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection over the limit; expect a request in time."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse("busy", f"{self.limits.connections} connections are open; try again in a moment.")
            return
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer outlives its connection."""
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes until the headers are whole."""
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        idle = cycle is None or cycle.response_complete
        if idle and self._timer is None:
            self._header_bytes = 0
            self._expect_headers()
        if self._timer is not None:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._timer is not None and self._header_bytes > self.limits.header_bytes:
            self._refuse_headers()

    def on_headers_complete(self) -> None:
        """The headers are whole: check their size, start the request."""
        self._stop_timer()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.header_bytes:
            self._refusal = ("too_large", f"Request line and headers may have {self.limits.header_bytes} bytes.", 431)
            raise _RefusedError
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Whatever stopped the parser, as a problem."""
        self._refuse(*(self._refusal or ("invalid", msg, 400)))

    def pause_writing(self) -> None:
        """The client does not take what is sent: it has so long to go on."""
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self.limits.send_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client goes on."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        super().resume_writing()

    def _expect_headers(self) -> None:
        self._timer = self.loop.call_later(self.limits.header_timeout_s, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if not self._header_bytes:
            self.transport.close()  # an idle connection, not a slow request
            return
        self._refuse("timeout", "The request's headers came too slowly.")

    def _refuse_headers(self) -> None:
        self._refuse("too_large", f"Request line and headers may have {self.limits.header_bytes} bytes.", 431)

    def _refuse(self, code: str, detail: str, status: int | None = None) -> None:
        """Answer without a request, and close."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        answer = problem_response(code, detail, status=status)
        body = bytes(answer.body)
        lines = [
            f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}",
            f"content-type: {MEDIA_TYPE}",
        ]
        lines += [f"content-length: {len(body)}", "connection: close", "", ""]
        self.transport.write("\r\n".join(lines).encode("ascii") + body)
        self.transport.close()


def bounded_http(bounds: Limits) -> type[BoundedHttp]:
    """The protocol class for these limits; uvicorn makes the connections itself."""
    return type("ConfiguredHttp", (BoundedHttp,), {"limits": bounds})
