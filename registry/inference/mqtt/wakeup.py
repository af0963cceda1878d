"""Calls from other threads to the one that owns a connection: they are queued, and a socket pair wakes it."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Value = TypeVar("Value")
_log = logging.getLogger(__name__)


class Wakeup:
    """`post` and `call` from any thread; the rest belongs to the thread that owns the connection."""

    def __init__(self) -> None:
        self.socket, self._far = socket.socketpair()
        self.socket.setblocking(False)
        self._far.setblocking(False)
        self._calls: deque[Callable[[], object]] = deque()
        self._woken = False
        """A byte is on its way: what is queued now is run with what it was sent for."""

    def post(self, call: Callable[[], object]) -> None:
        """Has `call` run on the owner's thread, in order."""
        self._calls.append(call)
        if self._woken:
            return
        self._woken = True
        with contextlib.suppress(OSError):  # full: it is awake anyway; closed: nobody is left to call
            self._far.send(b"\0")

    def call(self, function: Callable[[], Value]) -> Future[Value]:
        """As `post`, with a result."""
        future: Future[Value] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - the caller gets it
                future.set_exception(error)

        self.post(run)
        return future

    @property
    def waiting(self) -> bool:
        """Is a call queued?"""
        return bool(self._calls)

    def run(self) -> None:
        """Runs what was queued until now."""
        with contextlib.suppress(OSError):
            self.socket.recv(4096)
        self._woken = False  # before the queue is looked at, so that nothing that is queued later waits
        for _ in range(len(self._calls)):
            _run(self._calls.popleft())

    def close(self) -> None:
        """Nothing is run any more."""
        self.socket.close()
        self._far.close()


def _run(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:  # noqa: BLE001 - the fault of one caller must not end the thread that serves all
        _log.exception("a call on the connection's thread failed")
