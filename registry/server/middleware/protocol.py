"""uvicorn's HTTP protocol with the bounds that it lacks: header size, slow headers, slow readers, connections.

It overrides callbacks of uvicorn's `HttpToolsProtocol`; tests/integration/registry/server/test_limits.py fails when
uvicorn changes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from registry.config import Limits
from registry.contracts.api.answers import PROBLEM_TYPE
from registry.core.shares import Lack
from registry.server.connections import Connections
from registry.server.middleware.problems import problem_response


class _RefusedError(Exception):
    """Stops the parser; `send_400_response` then says why."""


class _Deadline:
    """A timer that is set or not."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        return self._timer is not None

    def set(self, seconds: float, missed: Callable[[], None]) -> None:
        self.clear()
        self._timer = asyncio.get_running_loop().call_later(seconds, missed)

    def clear(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class BoundedHttp(HttpToolsProtocol):
    """One connection. `limits` and `places` are set by `bounded_http`."""

    limits: Limits
    places: Connections
    _in_message = False
    _header_bytes = 0
    _refusal: tuple[str, str, int | None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection that has no place; expect a request in time."""
        self._headers_due, self._reader_due, self._rest_due = _Deadline(), _Deadline(), _Deadline()
        self._taken_due = _Deadline()
        super().connection_made(transport)
        lack = self.places.enter(self, _peer(transport))
        if lack is Lack.OWN:
            text = f"{self.places.each} connections of your address are open and have requests; try again in a moment."
            self._refuse("over_share", text)
            return
        if lack is Lack.ALL:
            self._refuse("busy", f"{self.places.total} connections are open; try again in a moment.")
            return
        self._expect_headers()

    def give_way(self) -> None:
        """Another connection gets this one's place; see `Connections`."""
        self._headers_due.clear()
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer outlives its connection, and no place."""
        self.places.leave(self)
        for deadline in (self._headers_due, self._reader_due, self._rest_due, self._taken_due):
            deadline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes until the headers are whole."""
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        answered = cycle is None or cycle.response_complete
        if self._in_message and answered and not self._rest_due.is_set:
            # the rest of a refused body is read and dropped, so that the client gets to see the answer
            self._rest_due.set(self.limits.body_timeout_s, self.transport.abort)
        if not self._in_message and answered and not self._headers_due.is_set:
            self._header_bytes = 0
            self._expect_headers()
        if self._headers_due.is_set:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._headers_due.is_set and self._header_bytes > self.limits.header_bytes:
            self._refuse_headers()

    def on_headers_complete(self) -> None:
        """The headers are whole: check their size, start the request."""
        self._headers_due.clear()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.header_bytes:
            self._refusal = ("too_large", f"Request line and headers may have {self.limits.header_bytes} bytes.", 431)
            raise _RefusedError
        self._in_message = True
        self.places.busy(self)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole; what follows is another request."""
        self._in_message = False
        self._rest_due.clear()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Whatever stopped the parser, as a problem."""
        self._refuse(*(self._refusal or ("invalid", msg, 400)))

    def pause_writing(self) -> None:
        """The client does not take what is sent: it has so long to go on."""
        super().pause_writing()
        if not self._reader_due.is_set:
            self._reader_due.set(self.limits.send_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client goes on."""
        self._reader_due.clear()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """The answer is handed over to the socket's buffer: it has so long to leave it, also when it was closed."""
        self._taken_due.set(self.limits.send_timeout_s, self._require_taken)
        super().on_response_complete()
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:  # else it has the next request already
            self.places.idle(self)

    def _require_taken(self) -> None:
        self._taken_due.clear()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _expect_headers(self) -> None:
        self._headers_due.set(self.limits.header_timeout_s, self._too_slow)

    def _too_slow(self) -> None:
        self._headers_due.clear()
        if not self._header_bytes:
            self.transport.close()  # an idle connection, not a slow request
            return
        self._refuse("timeout", "The request's headers came too slowly.")

    def _refuse_headers(self) -> None:
        self._refuse("too_large", f"Request line and headers may have {self.limits.header_bytes} bytes.", 431)

    def _refuse(self, code: str, detail: str, status: int | None = None) -> None:
        """Answer without a request, and close."""
        self._headers_due.clear()
        if self.transport.is_closing():
            return
        answer = problem_response(code, detail, status=status)
        body = bytes(answer.body)
        lines = [
            f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}",
            f"content-type: {PROBLEM_TYPE}",
        ]
        lines += [f"content-length: {len(body)}", "connection: close", "", ""]
        self.transport.write("\r\n".join(lines).encode("ascii") + body)
        self.transport.close()


def _peer(transport: asyncio.BaseTransport) -> str:
    """The address at the other end; empty where there is none, as of a connection that has just ended."""
    found = transport.get_extra_info("peername")
    return str(found[0]) if isinstance(found, tuple) and found else ""


def bounded_http(bounds: Limits, places: Connections) -> type[BoundedHttp]:
    """The protocol class for these limits; uvicorn makes the connections itself."""
    return type("ConfiguredHttp", (BoundedHttp,), {"limits": bounds, "places": places})
