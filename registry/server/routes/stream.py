"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): the fleet's log as it grows.

A stream reads the log from its cursor, so a client that was away, or is slow, misses nothing that is still kept; a
slow one holds up nobody, because nothing is queued for it. What was forgotten meanwhile is told as an event `gap`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from registry.contracts.paths import API
from registry.contracts.wire import Name
from registry.core.shares import Holdings, Lack
from registry.errors import BusyError, InvalidError
from registry.server.middleware.auth import Reader, ServicesDep, caller_name
from registry.services.fleet.fleet_log import FleetLog
from registry.services.shares import ShareRefusals

router = APIRouter(prefix=API, tags=["rollouts"])
MAX_CLIENTS = 256
"""Open streams; the next one is answered 503."""
BATCH = 200
HEARTBEAT_S = 15.0
"""A comment after so long without an event, so that proxies and clients know that the stream lives."""
LOOK_S = 1.0
"""The log is looked at so often for what another process wrote."""
MAX_CURSOR = 1 << 53
_READERS = ThreadPoolExecutor(4, thread_name_prefix="streams")
"""They read the log for all streams together: streams that have much to catch up hold up no request."""


@router.get("/rollout-events", response_class=StreamingResponse)
async def stream_events(
    request: Request,
    services: ServicesDep,
    who: Reader,
    cursor: Annotated[int | None, Query(ge=0, le=MAX_CURSOR, description="Go on after this event")] = None,
    rollout: Annotated[Name | None, Query(description="Only of this rollout: its id or its name")] = None,
) -> StreamingResponse:
    """Events of rollouts, each with its cursor as id. `Last-Event-ID` wins over `?cursor=`; neither: from now on.

    A cursor that was never given out, as after the database came back from a backup, is refused: what was missed can
    only be read from the rollouts themselves.
    """
    log = services.fleet.log
    start = _last_event_id(request)
    start = cursor if start is None else start
    oldest, newest = await run_in_threadpool(log.bounds)
    if start is None:
        start = newest
    if start > newest:
        raise InvalidError(f"This registry has given out no cursor above {newest}; begin without one.")
    if rollout is not None:
        rollout = (await run_in_threadpool(services.fleet.rollouts.get, rollout, services.clock())).id
    lost = max(0, oldest - 1 - start)
    events = _events(log, max(start, oldest - 1), rollout, lost)
    return _Stream(events, caller_name(request, who), request.app.state.streams, services.shares)


class _Stream(StreamingResponse):
    """Counted while it is being answered: between the look whether there is room and the count nothing waits."""

    def __init__(self, events: AsyncIterator[str], caller: str, held: Holdings, shares: ShareRefusals) -> None:
        super().__init__(events, 200, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, "text/event-stream")
        self._caller, self._held, self._shares = caller, held, shares

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        lack = self._held.take(self._caller)
        if lack is Lack.OWN:
            text = f"{self._held.each} event streams of yours are open; that is the most. End one first."
            raise self._shares.refused("streams", self._caller, text)
        if lack is Lack.ALL:
            raise BusyError(f"{MAX_CLIENTS} event streams are open; that is the most.")
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._held.give(self._caller)


def _last_event_id(request: Request) -> int | None:
    given = request.headers.get("last-event-id")
    if not given:
        return None
    if not (given.isascii() and given.isdigit() and len(given) <= 15):
        raise InvalidError("Last-Event-ID is not one that this stream gave out.")
    return int(given)


async def _events(log: FleetLog, cursor: int, rollout: str | None, lost: int) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    with _woken(log) as wake:
        yield "retry: 2000\n\n"
        if lost:
            yield f"event: gap\ndata: {json.dumps({'lost': lost})}\n\n"
        quiet = 0.0
        while True:
            wake.clear()
            entries = await loop.run_in_executor(_READERS, log.after, cursor, BATCH, rollout)
            if entries:  # in one piece: a send for each would take the loop from everybody else
                cursor = entries[-1].cursor
                yield "".join(f"id: {e.cursor}\nevent: {e.kind}\ndata: {e.document}\n\n" for e in entries)
            quiet = 0.0 if entries else quiet
            if len(entries) == BATCH:
                continue
            try:
                await asyncio.wait_for(wake.wait(), LOOK_S)
            except asyncio.TimeoutError:
                quiet += LOOK_S
            if quiet >= HEARTBEAT_S:
                quiet = 0.0
                yield ": still here\n\n"


@contextmanager
def _woken(log: FleetLog) -> Iterator[asyncio.Event]:
    """An event that is set when this process has appended to the log."""
    loop, wake = asyncio.get_running_loop(), asyncio.Event()

    def changed() -> None:
        loop.call_soon_threadsafe(wake.set)

    end = log.listen(changed)
    try:
        yield wake
    finally:
        end()
