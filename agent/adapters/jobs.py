"""What is done periodically: APScheduler puts a `Tick` into the control queue; the work is done by who reads it.

Periods run on the monotonic clock (`registry/periodic.py`): setting the host's clock neither stops nor repeats them.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.core.events import Tick
from registry.periodic import PeriodicScheduler

FIRST_POLL_S = 1.0
SWEEP_INTERVAL_S = 3600.0
FIRST_SWEEP_S = 60.0


class PeriodicTicks:
    """Started after everything it ticks for, stopped first."""

    def __init__(self, put: Callable[[Tick], None], *, poll_s: float, health_s: float) -> None:
        self._put = put
        self._every = {
            "poll": (poll_s, min(poll_s, FIRST_POLL_S)),
            "health": (health_s, min(health_s, 5.0)),
            "sweep": (SWEEP_INTERVAL_S, FIRST_SWEEP_S),
        }
        self._scheduler = PeriodicScheduler(threads=1)

    def start(self) -> None:
        """Begins to tick."""
        for what, (interval, first) in self._every.items():
            self._scheduler.every(interval, self._put, Tick(what), first_s=first, name=what)
        self._scheduler.start()

    def stop(self) -> None:
        """No tick comes after it. Safe to call when it never started."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)
