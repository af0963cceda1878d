"""What callers of an `AsyncClient` wait with: room for another request, and the end of one."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from .requests import PendingRequest


class AsyncInFlightLimit:
    """Bounds what is under way."""

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit, self._limit_bytes = limit, limit_bytes
        self._count = self._bytes = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def fits(self, size: int) -> bool:
        """There is room now; a request that is longer than all of it goes alone."""
        return not self._count or (self._count < self._limit and self._bytes + size <= self._limit_bytes)

    async def take(self, size: int) -> None:
        """Waits until there is room."""
        while not self.fits(size):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake()  # it was this one's turn: the next one's now
                raise
        self._count += 1
        self._bytes += size

    def give(self, size: int) -> None:
        """A request has ended."""
        self._count -= 1
        self._bytes -= size
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


class AsyncOldestRequest:
    """Waits for the oldest of some requests, and is woken for that one only."""

    def __init__(self) -> None:
        self._awaited: PendingRequest | None = None
        self._future: asyncio.Future[None] | None = None

    def ended(self, request: PendingRequest) -> None:
        """A request has ended."""
        if request is self._awaited and self._future is not None and not self._future.done():
            self._future.set_result(None)

    @staticmethod
    def ready(request: PendingRequest | Exception) -> bool:
        """It need not be waited for."""
        return isinstance(request, Exception) or request.outcome is not None

    async def wait(self, request: PendingRequest | Exception) -> Any:
        """The outcome."""
        if isinstance(request, Exception):
            return request
        if request.outcome is None:
            self._awaited, self._future = request, asyncio.get_running_loop().create_future()
            await self._future
            self._awaited = None
        return request.outcome
