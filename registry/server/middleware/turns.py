"""ASGI middleware: how many requests of one caller are worked on at the same moment. The next ones wait their turn.

Requests are worked on by a bounded number of threads. Without turns a caller that asks for much at once would have all
of them, and everybody else would wait behind it. A caller is a token that was used before; everybody else an address.
What does not hold a thread has no turn: a device's poll, a stream, bytes of blobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.contracts.paths import API, CONSOLE
from registry.server.middleware.auth import services_of
from registry.server.middleware.problems import response_of

AT_ONCE = 10
"""A quarter of the threads that there are (anyio has 40)."""
PATIENCE_S = 60.0
"""A request waits so long for its turn."""
_NO_TURN = (f"{API}/blobs/", f"{API}/uploads/", f"{API}/rollout-events", f"{CONSOLE}/live", "/healthz", "/readyz")


class Turns:
    """See the module."""

    def __init__(self, app: ASGIApp, at_once: int = AT_ONCE, patience_s: float = PATIENCE_S) -> None:
        self._app, self._at_once, self._patience_s = app, at_once, patience_s
        self._turns: dict[Hashable, tuple[asyncio.Semaphore, int]] = {}
        """Of callers with requests: their turns, and how many requests they have."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for a turn, then pass on."""
        if scope["type"] != "http" or _needs_none(scope["path"]):
            await self._app(scope, receive, send)
            return
        caller = _caller(Request(scope))
        turn, requests = self._turns.get(caller, (None, 0))
        turn = turn or asyncio.Semaphore(self._at_once)
        self._turns[caller] = turn, requests + 1
        try:
            try:
                await asyncio.wait_for(turn.acquire(), self._patience_s)
            except asyncio.TimeoutError:
                text = f"{self._at_once} requests of yours are worked on, and {requests} wait; send fewer at once."
                error = services_of(Request(scope)).shares.refused("requests", str(caller), text)
                await response_of(error)(scope, receive, send)
                return
            try:
                await self._app(scope, receive, send)
            finally:
                turn.release()
        finally:
            turn, requests = self._turns[caller]
            if requests == 1:
                del self._turns[caller]
            else:
                self._turns[caller] = turn, requests - 1


def _needs_none(path: str) -> bool:
    return path.startswith(_NO_TURN) or path.endswith("/desired")


def _caller(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if token and scheme.lower() == "bearer":
        services = services_of(request)
        known = services.access.remembered(token, services.clock())
        if known is not None:
            return known.name
    return f"address {request.client.host}" if request.client is not None else "an address that is not known"
