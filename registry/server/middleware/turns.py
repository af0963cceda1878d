"""ASGI middleware: how many requests of one caller are worked on at the same moment. The next ones wait their turn.

Requests are worked on by threads that share one interpreter. Without turns a caller that asks for much at once would
have all of it, and everybody else would wait behind it. Who is alone has AT_ONCE; where others have asked lately, too,
each has BESIDE. A caller is a token that was used before; everybody else an address.
What does not hold a thread has no turn: a device's poll, a stream, bytes of blobs.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.contracts.paths import API, CONSOLE
from registry.server.middleware.auth import caller_name, services_of
from registry.server.middleware.problems import response_of
from registry.services.access.principals import ANONYMOUS

AT_ONCE, BESIDE = 10, 2
"""Of 40 threads that there are (anyio's number)."""
LATELY_S = 1.0
PATIENCE_S = 60.0
"""A request waits so long for its turn."""
_NO_TURN = (f"{API}/blobs/", f"{API}/uploads/", f"{API}/rollout-events", f"{CONSOLE}/live", "/healthz", "/readyz")


@dataclass
class _Line:
    """Of one caller: requests that are worked on, and those that wait."""

    working: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class Turns:
    """See the module. For one event loop."""

    def __init__(self, app: ASGIApp, patience_s: float = PATIENCE_S) -> None:
        self._app, self._patience_s = app, patience_s
        self._lines: dict[str, _Line] = {}
        self._latest, self._before = ("", float("-inf")), ("", float("-inf"))
        """The two callers who asked last, and when."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for a turn, then pass on."""
        if scope["type"] != "http" or _needs_none(scope["path"]):
            await self._app(scope, receive, send)
            return
        caller = _caller(Request(scope))
        line = self._lines.setdefault(caller, _Line())
        if not await self._turn(caller, line):
            text = f"{line.working} requests of yours are worked on, and {len(line.waiting)} wait; send fewer at once."
            error = services_of(Request(scope)).shares.refused("requests", caller, text)
            await response_of(error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            line.working -= 1
            self._go_on(caller, line)

    async def _turn(self, caller: str, line: _Line) -> bool:
        """False: it did not come in time."""
        now = time.monotonic()
        if caller != self._latest[0]:
            self._before = self._latest
        self._latest = caller, now
        if line.working < self._most(caller, now):
            line.working += 1
            return True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.waiting.append(turn)
        try:
            await asyncio.wait_for(turn, self._patience_s)
        except asyncio.TimeoutError:
            with suppress(ValueError):
                line.waiting.remove(turn)
            return False
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                line.working -= 1
            else:
                with suppress(ValueError):
                    line.waiting.remove(turn)
            self._go_on(caller, line)
            raise
        return True

    def _go_on(self, caller: str, line: _Line) -> None:
        most = self._most(caller, time.monotonic())
        while line.waiting and line.working < most:
            turn = line.waiting.popleft()
            if not turn.done():
                line.working += 1
                turn.set_result(None)
        if not line.working and not line.waiting:
            self._lines.pop(caller, None)

    def _most(self, caller: str, now: float) -> int:
        others = (at for other, at in (self._latest, self._before) if other != caller)
        return BESIDE if any(now - at <= LATELY_S for at in others) else AT_ONCE


def _needs_none(path: str) -> bool:
    return path.startswith(_NO_TURN) or path.endswith("/desired")


def _caller(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if token and scheme.lower() == "bearer":
        services = services_of(request)
        known = services.access.remembered(token, services.clock())
        if known is not None:
            return caller_name(request, known)
    return caller_name(request, ANONYMOUS)
