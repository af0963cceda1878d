"""The connection of an `AsyncClient`, driven by the event loop: no thread but while it connects."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import selectors
import threading
import time
from collections.abc import Callable
from math import inf
from typing import Any

from .connection import ClientConnection
from .errors import DeviceError
from .requests import PendingRequest
from .settings import ClientSettings

_log = logging.getLogger(__name__)
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class ConnectionOnLoop:
    """A connection on the running event loop. It is the selector of its socket, too."""

    def __init__(self, settings: ClientSettings) -> None:
        """Raises CertificateError for TLS files that cannot be used."""
        self._loop = asyncio.get_running_loop()
        self.first: asyncio.Future[DeviceError | None] = self._loop.create_future()
        """When the first try to connect has ended: None, or why it failed."""
        self.connection = ClientConnection(settings, self, self._in_background, time.monotonic, self._first_ended)
        self._fd = -1
        self._events = 0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf

    def start(self) -> None:
        """Begins to connect; returns at once."""
        self.connection.start()
        self._schedule()

    def check_loop(self) -> None:
        """Raises RuntimeError on another event loop: there nothing would ever come."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("the client was connected on another event loop: make an AsyncClient for each loop")

    def submit(self, request: PendingRequest) -> None:
        """A call. What is called in one go is sent in one piece."""
        self.connection.submit(request)
        self._schedule()

    def close(self) -> None:
        """Ends the connection; what is under way fails. Idempotent."""
        self.connection.close()
        if self._timer is not None:
            self._timer.cancel()

    def _first_ended(self, error: DeviceError | None) -> None:
        if not self.first.done():
            self.first.set_result(error)

    def _in_background(self, work: Callable[[], None], ended: Callable[[Exception | None], None]) -> None:
        def run() -> None:
            error: Exception | None = None
            try:
                work()
            except Exception as raised:  # noqa: BLE001 - whatever keeps us from the broker: it is told, and tried again
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(self._ended, ended, error)

        threading.Thread(target=run, name="modelfleet-connect", daemon=True).start()

    def _ended(self, ended: Callable[[Exception | None], None], error: Exception | None) -> None:
        ended(error)
        self._turn()

    # --- turns --------------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """One round. A fault in it is logged; the requests that it concerned end at their deadlines."""
        self._scheduled = False
        if self.connection.closed:
            return
        try:
            self.connection.turn()
        except Exception:  # noqa: BLE001 - see above
            _log.exception("a turn of the client failed")
        at = self.connection.wake_at()
        if at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_later(max(0.0, at - time.monotonic()), self._timed)

    def _timed(self) -> None:
        self._timer, self._timer_at = None, inf
        self._turn()

    # --- SocketSelector -----------------------------------------------------------------------------------------------

    def register(self, sock: Any, events: int, ready: Callable[[int], None], /) -> None:
        """See SocketSelector."""
        self._fd = sock.fileno()
        self.modify(sock, events, ready)

    def modify(self, _sock: Any, events: int, ready: Callable[[int], None], /) -> None:
        """See SocketSelector."""
        for event, add, remove in (
            (_READ, self._loop.add_reader, self._loop.remove_reader),
            (_WRITE, self._loop.add_writer, self._loop.remove_writer),
        ):
            if events & event and not self._events & event:
                add(self._fd, self._happened, ready, event)
            elif self._events & event and not events & event:
                remove(self._fd)
        self._events = events

    def unregister(self, sock: Any, /) -> None:
        """See SocketSelector."""
        self.modify(sock, 0, _ignore)
        self._fd = -1

    def _happened(self, ready: Callable[[int], None], event: int) -> None:
        ready(event)
        self._turn()


def _ignore(_events: int) -> None:
    """Of a socket that is watched no more."""
