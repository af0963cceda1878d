"""The thread that drives the connection of a `Client`. It does not hold the client, which can be collected."""

from __future__ import annotations

import logging
import os
import queue
import selectors
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ...contracts.codes import RequestCode
from ...inference.mqtt.wakeup import Wakeup
from .connection import ClientConnection
from .errors import DeviceError, error_of
from .requests import PendingRequest
from .settings import ClientSettings

MAX_SLEEP = 60.0
CLOSE_SECONDS = 5.0
Value = TypeVar("Value")
_log = logging.getLogger(__name__)


class ConnectionThread:
    """A connection with its selector and its thread. `submit`, `post` and `stop` from any thread."""

    def __init__(self, settings: ClientSettings) -> None:
        """Raises CertificateError for TLS files that cannot be used."""
        self._pid = os.getpid()
        self._wakeup = Wakeup()
        self._selector = selectors.DefaultSelector()
        self.first: DeviceError | None = None
        """Why the first try to connect failed."""
        self.told = threading.Event()
        """Set when the first try to connect has ended."""
        self._ended = False
        self._wakes: list[queue.SimpleQueue[Any]] = []
        try:
            self.connection = ClientConnection(
                settings, self._selector, self._in_background, time.monotonic, self._first_ended
            )
        except BaseException:
            self._wakeup.close()
            self._selector.close()
            raise
        self._thread = threading.Thread(target=self._run, name="modelfleet-client", daemon=True)

    def start(self) -> None:
        """Begins to connect; returns at once."""
        self._thread.start()

    def post(self, call: Callable[[], object]) -> None:
        """Has `call` run on the thread."""
        self._wakeup.post(call)

    def submit(self, request: PendingRequest) -> None:
        """A call; `request.done` runs on the thread."""
        if not self._thread.is_alive():
            raise error_of(RequestCode.CLIENT_CLOSED, "the client is closed", device=request.device)
        self._wakeup.post(lambda: self.connection.submit(request))
        if self._ended:  # meanwhile
            self._wakeup.run()
            self._wake()

    def is_current(self) -> bool:
        """Is the caller on this thread?"""
        return threading.current_thread() is self._thread

    def refuse_to_wait(self) -> None:
        """Raises RuntimeError on this thread: what it waited for would never come."""
        if self.is_current():
            raise RuntimeError(
                "a callback of a future runs on the client's own thread, where no answer can be waited for: use "
                "`submit` there, or wait on another thread"
            )

    def wake_after_turn(self, box: queue.SimpleQueue[Any]) -> None:
        """On the thread: puts something into `box` when this turn is over. One that waits for it does not compete for
        the interpreter with the rest of the turn, and finds all that the turn brought."""
        self._wakes.append(box)

    def call(self, function: Callable[[], Value], future: Future[Value]) -> None:
        """Has `function` run on the thread and its result put into `future`. Raises NotConnectedError when closed."""
        if not self._thread.is_alive():
            raise error_of(RequestCode.CLIENT_CLOSED, "the client is closed")
        self._wakeup.post(lambda: future.set_result(function()))

    def stop(self) -> None:
        """Ends the connection and the thread; in a process that was forked, nothing: it is the other's. Idempotent."""
        if os.getpid() != self._pid or not self._thread.is_alive():
            return
        self._wakeup.post(self.connection.close)
        if not self.is_current():
            self._thread.join(CLOSE_SECONDS)

    def _first_ended(self, error: DeviceError | None) -> None:
        self.first = error
        self.told.set()

    def _in_background(self, work: Callable[[], None], ended: Callable[[Exception | None], None]) -> None:
        def run() -> None:
            error: Exception | None = None
            try:
                work()
            except Exception as raised:  # noqa: BLE001 - whatever keeps us from the broker: it is told, and tried again
                error = raised
            self._wakeup.post(lambda: ended(error))

        threading.Thread(target=run, name="modelfleet-connect", daemon=True).start()

    def _run(self) -> None:
        connection, selector = self.connection, self._selector
        selector.register(self._wakeup.socket, selectors.EVENT_READ, lambda _events: self._wakeup.run())
        try:
            connection.start()
            while not connection.closed:
                self._turn()
        finally:
            connection.close()
            self._ended = True
            self._wakeup.run()  # what was posted last is refused, not forgotten
            self._wake()
            self.told.set()
            selector.close()
            self._wakeup.close()

    def _wake(self) -> None:
        wakes, self._wakes = self._wakes, []
        for box in wakes:
            box.put(None)

    def _turn(self) -> None:
        """One round. A fault in it is logged; the requests that it concerned end at their deadlines."""
        try:
            pause = min(MAX_SLEEP, max(0.0, self.connection.wake_at() - time.monotonic()))
            for key, mask in self._selector.select(pause):
                key.data(mask)
            self.connection.turn()
        except Exception:  # noqa: BLE001 - see above
            _log.exception("a turn of the client's thread failed")
            time.sleep(0.05)
        self._wake()
