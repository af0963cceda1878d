"""What is done periodically: APScheduler puts a `Tick` into the control queue; the work is done by who reads it.

A run that was missed is not made up for, and two of a kind never run together.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from agent.core.events import Tick

FIRST_POLL_S = 1.0
SWEEP_INTERVAL_S = 3600.0
FIRST_SWEEP_S = 60.0


class Jobs:
    """Started after everything it ticks for, stopped first."""

    def __init__(self, put: Callable[[Tick], None], *, poll_s: float, health_s: float) -> None:
        self._put = put
        self._every = {
            "poll": (poll_s, FIRST_POLL_S),
            "health": (health_s, min(health_s, 5.0)),
            "sweep": (SWEEP_INTERVAL_S, FIRST_SWEEP_S),
        }
        self._scheduler = BackgroundScheduler(
            timezone=timezone.utc,
            executors={"default": ThreadPoolExecutor(1)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def start(self, now: datetime) -> None:
        """Begins to tick. `now` is the clock's time."""
        for what, (interval, first) in self._every.items():
            self._scheduler.add_job(
                self._put, "interval", args=[Tick(what)], seconds=interval, next_run_time=now + timedelta(seconds=first)
            )
        self._scheduler.start()

    def stop(self) -> None:
        """No tick comes after it. Safe to call when it never started."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)
