"""What happens by itself, at the start and every so often. Every job starts from what the database or the disk says, so
that one that was killed, failed or skipped is made good by the next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from starlette.concurrency import run_in_threadpool

from registry.core.clock_steps import ClockSteps
from registry.errors import RegistryError, TemporaryError
from registry.periodic import PeriodicScheduler
from registry.server.composition import COLLECT_EVERY_S, Services
from registry.server.metrics import counter
from registry.services.fleet.activities import sweep_activities
from registry.services.fleet.presence import PresenceTracker
from registry.services.fleet.retention import forget_steps
from registry.services.idempotency import forget_old
from registry.services.tallies import fold_tallies, recount
from registry.services.tokens import CACHE_SECONDS

log = logging.getLogger(__name__)


@asynccontextmanager
async def attending(presence: PresenceTracker, clock: Callable[[], datetime]) -> AsyncIterator[None]:
    """The first of the scheduler's notes."""
    try:
        await run_in_threadpool(presence.listen, clock())
    except TemporaryError:
        pass  # the database has said it; the scheduler tries again
    except Exception:
        log.exception("presence: that the registry listens cannot be noted; the scheduler tries again")
    yield


LISTEN_S = 20.0
"""Less than `registry.core.presence.AFTERWARDS_S`."""
SETTLE_S = 3600.0
"""A clock that was set may be wrong: nothing is removed for its age so long after."""
Stopping = Callable[[], bool]
"""Asked by long jobs between two steps."""


@dataclass(frozen=True)
class PeriodicJob:
    """One thing to do again and again; never twice at once."""

    name: str
    every_s: float
    run: Callable[[Services, Stopping], object]
    by_age: bool = False
    """It removes or ends what is old: not before the wall clock has stood still for SETTLE_S."""


def _forget_steps(services: Services, stopping: Stopping) -> int:
    return forget_steps(services.database, services.clock(), services.config.retention.events_hours, stopping)


JOBS: tuple[PeriodicJob, ...] = (
    PeriodicJob("settings", 2, lambda services, _: services.fleet.deployments.reissue(services.clock())),
    PeriodicJob("presence", LISTEN_S, lambda services, _: services.fleet.presence.listen(services.clock())),
    PeriodicJob("fold-counts", 10, lambda services, _: fold_tallies(services.database)),
    PeriodicJob("recount", 3600, lambda services, _: recount(services.database)),
    PeriodicJob("jobs", 60, lambda services, _: services.fleet.jobs.sweep(services.clock()), by_age=True),
    PeriodicJob("rollouts", 1, lambda services, stopping: services.fleet.ticker.tick(services.clock(), stopping)),
    PeriodicJob("plans", 1, lambda services, stopping: services.fleet.ticker.plan(services.clock, stopping)),
    PeriodicJob("webhooks", 1, lambda services, _: services.fleet.webhooks.deliver(services.clock)),
    PeriodicJob("commands", 3600, lambda services, _: forget_old(services.database, services.clock()), by_age=True),
    PeriodicJob("rollout-steps", 3600, _forget_steps, by_age=True),
    PeriodicJob("fleet-log", 600, lambda services, _: services.fleet.log.sweep(services.clock()), by_age=True),
    PeriodicJob("tokens", CACHE_SECONDS / 3, lambda services, _: services.access.refresh()),
    PeriodicJob("last-used", 60, lambda services, _: services.access.save_last_used()),
    PeriodicJob("changes", 3600, lambda services, _: services.rule.sweep(services.clock()), by_age=True),
    PeriodicJob("console", 600, lambda services, _: services.sessions.sweep(services.clock()), by_age=True),
    PeriodicJob("uploads", 600, lambda services, _: services.uploads.sweep(services.clock()), by_age=True),
    PeriodicJob("blobs", COLLECT_EVERY_S, lambda services, _: services.garbage.sweep(services.clock()), by_age=True),
    PeriodicJob("blob-checks", 60, lambda services, stopping: services.checks.sweep(services.clock, stopping)),
    PeriodicJob("trust", 600, lambda services, _: services.trust.renew()),
    PeriodicJob("signatures", 600, lambda services, _: services.fleet.publication.renew(services.clock())),
    PeriodicJob("answers", 10, lambda services, _: services.fleet.answers.record(services.clock())),
    PeriodicJob("connections", 60, lambda services, _: services.fleet.connections.record(services.clock())),
    PeriodicJob("versions", 300, lambda services, _: services.fleet.versions.record(services.clock())),
    PeriodicJob("over-time", 600, lambda s, stopping: s.fleet.answers.sweep(s.clock(), stopping), by_age=True),
    PeriodicJob("activities", 3600, lambda services, _: sweep_activities(services.database)),
    PeriodicJob("retention", 600, lambda s, stopping: s.fleet.retention.sweep(s.clock(), stopping), by_age=True),
)
"""To add one: a line here."""


FAILURES = counter("jobs_failed")


class _Settled:
    """Whether the wall clock was set lately; asked by many threads."""

    def __init__(self) -> None:
        self._steps, self._lock = ClockSteps(), threading.Lock()
        self._until = 0.0

    def __call__(self, wall: float, steady: float) -> bool:
        with self._lock:
            if self._steps.moved(wall, steady):
                self._until = steady + SETTLE_S
            return steady >= self._until


def _run(job: PeriodicJob, services: Services, stopping: Stopping, settled: _Settled) -> None:
    if not settled(services.clock().timestamp(), time.monotonic()) and job.by_age:
        return
    try:
        job.run(services, stopping)
    except TemporaryError:
        FAILURES.labels(job.name).inc()  # the database or the disk has said it
    except RegistryError as error:
        FAILURES.labels(job.name).inc()
        log.warning("%s: %s; the next run tries again", job.name, error.message)
    except Exception:
        FAILURES.labels(job.name).inc()
        log.exception("%s: it failed; the next run tries again", job.name)


@asynccontextmanager
async def scheduling(services: Services) -> AsyncIterator[None]:
    """The jobs, as long as the server runs."""
    stopping = threading.Event()
    scheduler, settled = PeriodicScheduler(), _Settled()
    for number, job in enumerate(JOBS):
        first_s = min(job.every_s, 30 + number)  # not all at once, nor at start
        scheduler.every(job.every_s, _run, job, services, stopping.is_set, settled, first_s=first_s, name=job.name)
    scheduler.start()
    try:
        yield
    finally:
        stopping.set()
        await run_in_threadpool(scheduler.shutdown)
        with suppress(TemporaryError):  # the database has said it
            await run_in_threadpool(services.fleet.answers.record, services.clock())
