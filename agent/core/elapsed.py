"""How long something lasts that has a date: counted on the monotonic clock while the agent runs. Pure.

A date that was written down is all that is left of a duration after a restart; while the agent runs, a wall clock that
is set forward must not end what waits, nor one that is set back stretch it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

TOLERANCE = timedelta(seconds=2)
"""Clocks that differ by less agree: what was told stays, so that nothing is written down again for it."""


class SteadySince:
    """When one thing began, as the wall clock of now would have shown it then."""

    def __init__(self) -> None:
        self._stamp: datetime | None = None
        self._began = 0.0
        self._told: datetime | None = None

    def at(self, stamp: datetime, now: datetime, monotonic: float) -> datetime:
        """`stamp`: when it began, as it was written down; another stamp is another thing."""
        if stamp != self._stamp:
            self._stamp, self._told = stamp, stamp
            self._began = monotonic - max((now - stamp).total_seconds(), 0.0)
        began = now - timedelta(seconds=monotonic - self._began)
        if self._told is None or abs(began - self._told) > TOLERANCE:
            self._told = began
        return self._told


class SteadyUntil:
    """When one thing ends, as the wall clock of now will show it then."""

    def __init__(self, until: datetime, now: datetime, monotonic: float, longest: timedelta) -> None:
        """`longest`: nothing lasts longer, whatever its date says."""
        self.until = until
        self._ends = monotonic + min(until - now, longest).total_seconds()

    def at(self, now: datetime, monotonic: float) -> datetime:
        """The date, corrected for how the wall clock was set since."""
        ends = now + timedelta(seconds=self._ends - monotonic)
        return self.until if abs(ends - self.until) <= TOLERANCE else ends
