"""Has the wall clock been set? Told by comparing it with the monotonic clock, which nobody sets."""

from __future__ import annotations

LEAST_S = 5.0
"""A smaller difference is a clock that is slewed, or a process that was not scheduled between two looks."""


class ClockSteps:
    """Both clocks in seconds, looked at again and again; not thread-safe."""

    def __init__(self) -> None:
        self._apart: float | None = None

    def moved(self, wall: float, steady: float) -> float:
        """Seconds by which the wall clock was set ahead (or, less than 0, back) since the last look; else 0.

        A host that was suspended counts as one whose clock was set ahead.
        """
        apart = wall - steady
        before, self._apart = self._apart, apart
        if before is None or abs(apart - before) < LEAST_S:
            return 0.0
        return apart - before
