"""The live stream: one a tab, which tells the page that something is new. The page then asks for its parts again.

One reader a process looks for news, whatever the number of streams: it is woken by what this process writes, and every
LOOK_S it compares a few counters, for what devices said and other processes wrote. A stream queues nothing: it tells
which subjects changed since it last told. Without a stream nobody looks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select
from starlette.types import Receive, Scope, Send

from registry.db.engine import Changed, Database
from registry.db.fleet_rows import EventRow, HealthRow, RevisionRow
from registry.db.index_rows import DeviceIndexRow
from registry.errors import BusyError, TemporaryError
from registry.server.console.visitors import LIVE, Reading
from registry.server.middleware.auth import address_of

router = APIRouter()
MAX_STREAMS = 512
"""Of all tabs; the next one is refused, and its page stays as it is until it is loaded again."""
MAX_OF_CALLER = 32
"""Of one token, or of one address without any, so that nobody takes the streams of the others."""
LIFE_S = 600.0
"""Then a stream ends and its page opens another one, for which it must still be signed in."""
LOOK_S = 2.0
HEARTBEAT_S = 15.0
STEPS = {Changed.FLEET: "fleet", Changed.DOCUMENTS: "fleet", Changed.ROLLOUTS: "rollouts", Changed.EVENTS: "rollouts"}
"""What this process announces, as subjects."""
SUBJECTS = ("fleet", "rollouts", "devices")
"""`fleet`: devices, labels, what they should serve. `rollouts`: one went on. `devices`: devices said something."""
NEWS = (HealthRow.id, EventRow.id, DeviceIndexRow.changed_at)
"""Rise when a device said something or its state changed; each is the end of an index."""
log = logging.getLogger(__name__)


class NewsStreams:
    """The reader, and the streams that it feeds. For one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._numbers = dict.fromkeys(SUBJECTS, 0)
        """How often each subject had news."""
        self._seen: tuple[object, ...] | None = None
        self._news = asyncio.Event()
        """Set, and replaced by another one, when there is some."""
        self._woken = asyncio.Event()
        self._announced: set[str] = set()
        self._reader: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="console")
        self.streams: Counter[str] = Counter()
        """How many each caller has open."""

    def enter(self, caller: str) -> None:
        """Counts a stream. Raises BusyError: too many are open."""
        if self.streams[caller] >= MAX_OF_CALLER:
            raise BusyError(f"{MAX_OF_CALLER} live streams of yours are open; that is the most. Close some tabs.")
        if self.streams.total() >= MAX_STREAMS:
            raise BusyError(f"{MAX_STREAMS} live streams are open; that is the most.")
        self.streams[caller] += 1

    def leave(self, caller: str) -> None:
        """One ended."""
        self.streams[caller] -= 1
        if not self.streams[caller]:
            del self.streams[caller]

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events: one for each subject that has news."""
        known = dict(self._numbers)
        self._start()
        yield "retry: 3000\n\n"
        ends_at = time.monotonic() + LIFE_S
        while time.monotonic() < ends_at:
            if self._numbers == known:
                news = self._news
                try:
                    await asyncio.wait_for(news.wait(), HEARTBEAT_S)
                except asyncio.TimeoutError:
                    yield ": still here\n\n"
                    continue
            new = [subject for subject in SUBJECTS if self._numbers[subject] != known[subject]]
            known = dict(self._numbers)
            yield "".join(f"event: {subject}\ndata: {known[subject]}\n\n" for subject in new)

    def _start(self) -> None:
        if self._reader is None or self._reader.done():
            self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()

        def listener(subject: str) -> Callable[[str], object]:
            def announced() -> None:
                self._announced.add(subject)
                self._woken.set()

            return lambda _: loop.call_soon_threadsafe(announced)

        ends = [self._database.listeners.add(each, listener(subject)) for each, subject in STEPS.items()]
        try:
            while self.streams:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), LOOK_S)
                self._woken.clear()
                self._tell(await self._look(loop))
                await asyncio.sleep(LOOK_S / 4)  # what comes together is told together
        finally:
            for end in ends:
                end()

    async def _look(self, loop: asyncio.AbstractEventLoop) -> set[str]:
        found, self._announced = self._announced, set()
        try:
            now = await loop.run_in_executor(self._thread, counters, self._database)
        except TemporaryError:
            return found  # the database has said it
        before, self._seen = self._seen, now
        if before is not None:
            found |= {subject for subject, old, new in zip(SUBJECTS, before, now, strict=True) if old != new}
        return found

    def _tell(self, subjects: set[str]) -> None:
        if subjects:
            for subject in subjects:
                self._numbers[subject] += 1
            told, self._news = self._news, asyncio.Event()
            told.set()


def counters(database: Database) -> tuple[object, ...]:
    """One value for each of SUBJECTS, another one when something is new. Each is read from the end of an index."""
    with database.read() as session:
        revisions = dict(session.execute(select(RevisionRow.id, RevisionRow.value)).tuples().all())
        said = tuple(session.scalar(select(func.max(column))) for column in NEWS)
    return revisions.get(1, 0), revisions.get(2, 0), said


class _Stream(StreamingResponse):
    """Counted while it is answered."""

    def __init__(self, live: NewsStreams, caller: str) -> None:
        super().__init__(live.stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._live, self._caller = live, caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._live.enter(self._caller)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._live.leave(self._caller)


@router.get(LIVE)
async def live(request: Request, who: Reading) -> StreamingResponse:
    """The stream of one tab."""
    found: NewsStreams = request.app.state.live
    return _Stream(found, f"token {who.name}" if who.session is not None else address_of(request))
