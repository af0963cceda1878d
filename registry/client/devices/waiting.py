"""What callers of a `Client` wait with: room for another request, and the end of one."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

from ...contracts.codes import RequestCode
from .errors import error_of
from .requests import PendingRequest
from .thread import ConnectionThread

GRACE_SECONDS = 30.0
"""The thread ends every request at its deadline; so much later it counts as dead."""


class InFlightLimit:
    """Bounds what is under way, over all threads."""

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit, self._limit_bytes = limit, limit_bytes
        self._count = self._bytes = 0
        self._changed = threading.Condition()

    def take(self, size: int, seconds: float) -> bool:
        """Waits until there is room; False: there was none in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._fits(size), seconds):
                return False
            self._count += 1
            self._bytes += size
            return True

    def give(self, size: int) -> None:
        """A request has ended."""
        with self._changed:
            self._count -= 1
            self._bytes -= size
            self._changed.notify()

    def _fits(self, size: int) -> bool:
        return not self._count or (self._count < self._limit and self._bytes + size <= self._limit_bytes)


class OldestRequest:
    """Lets one thread wait for the oldest of its requests, and be woken for that one only."""

    def __init__(self, thread: ConnectionThread) -> None:
        self._thread = thread
        self._box: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._awaited: PendingRequest | None = None

    def ended(self, request: PendingRequest) -> None:
        """On the client's thread."""
        if request is self._awaited:
            self._thread.wake_after_turn(self._box)

    @staticmethod
    def ready(request: PendingRequest | Exception) -> bool:
        """It need not be waited for."""
        return isinstance(request, Exception) or request.outcome is not None

    def wait(self, request: PendingRequest | Exception) -> Any:
        """The outcome."""
        if isinstance(request, Exception):
            return request
        self._awaited = request
        if request.outcome is None:
            self._thread.refuse_to_wait()
        while request.outcome is None:  # what is in the box may be of an earlier one
            wait_for_end(self._box, request)
        self._awaited = None
        return request.outcome


def wait_for_end(box: queue.SimpleQueue[Any], request: PendingRequest) -> None:
    """Waits until the client's thread says that a request has ended."""
    try:
        box.get(timeout=max(0.0, request.deadline - time.monotonic()) + GRACE_SECONDS)
    except queue.Empty:
        raise error_of(RequestCode.CLIENT_CLOSED, "the client's thread has ended", device=request.device) from None
