"""APScheduler with periods on the monotonic clock; for both programs, beside the wire the only module that they share.

APScheduler 3 plans by wall time: after the clock was set back nothing runs until it has caught up, and after a jump
ahead every missed run is listed, which for twenty years of a second's period is more than the memory holds. Here a
job's `due` time is kept on the monotonic clock, which nobody sets. What APScheduler is told is only the wall time
that it corresponds to at the moment, and is corrected when the two have come apart, which is looked at every LOOK_S.

INVARIANT: two runs of a job begin at least its period apart and, while its runs are shorter than the period, at most
LOOK_S more, whatever the wall clock does. (A jump in the microseconds between the correction and APScheduler's own
look at the clock may bring one run early.)
INVARIANT: a missed run is not made good; the period counts from when the last run was begun or skipped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

LOOK_S = 2.0
"""So long a step of the wall clock may go unnoticed."""
TOLERANCE_S = 0.2
"""A plan that is wrong by less stays: clocks are slewed all the time."""


class SteadyPeriod(BaseTrigger):  # type: ignore[misc]
    """A trigger: a run, then a pause of `every_s` seconds of the monotonic clock.

    Args:
        every_s: The period in seconds, more than 0.
        first_s: Seconds from now until the first run.
        steady: The monotonic clock, in seconds.
    """

    def __init__(self, every_s: float, first_s: float, steady: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._steady = steady
        self._due = steady() + first_s

    def __str__(self) -> str:
        """As it stands in what APScheduler logs of a run that it skipped."""
        return f"every {self._every_s:g} s"

    def planned(self, now: datetime) -> datetime:
        """The wall time of the next run, `now` being the wall time at this moment."""
        return now + timedelta(seconds=self._due - self._steady())

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """For APScheduler, which asks after it began or skipped a run; always later than `now`."""
        if previous_fire_time is not None:
            self._due = self._steady() + self._every_s
        return max(self.planned(now), now + timedelta(microseconds=1))


class PeriodicScheduler(BackgroundScheduler):  # type: ignore[misc]
    """Runs jobs periodically, in `threads` threads; two runs of one job never together.

    `start()` begins; `shutdown(wait=True)` ends and waits for what runs.
    """

    def __init__(self, threads: int = 10) -> None:
        super().__init__(
            timezone=timezone.utc,
            executors={"default": ThreadPoolExecutor(threads)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def every(self, seconds: float, run: Callable[..., object], *args: object, first_s: float, name: str) -> None:
        """Call `run(*args)` in `first_s` seconds, then every so many."""
        self.add_job(run, SteadyPeriod(seconds, first_s), args=args, id=name, name=name)

    def _process_jobs(self) -> float:
        """APScheduler's own step, which a scheduler's loop repeats: begin what is due, say how long to wait."""
        now = datetime.fromtimestamp(time.time(), tz=timezone.utc)
        for job in self.get_jobs():
            planned = job.trigger.planned(now)
            if abs((planned - job.next_run_time).total_seconds()) > TOLERANCE_S:
                job.modify(next_run_time=planned)
        wait: Any = super()._process_jobs()
        return LOOK_S if wait is None else min(float(wait), LOOK_S)
