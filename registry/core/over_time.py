"""Figures over time: how fine they are kept and shown, and percentiles of histograms. Pure.

Answered requests are summed by the minute. A sum becomes part of a coarser one when it is old enough (FOLDS), so that
what is kept is bounded by time and not by use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from registry.contracts.api.over_time import HealthSpan
from registry.contracts.counters import DURATION_BOUNDS_S

FINEST_S = 60
SAMPLE_S = 300
"""Of connections there is one sample in so many seconds."""
FOLDS = ((60, 300, timedelta(hours=3)), (300, 3600, timedelta(hours=49)))
"""Step, coarser step, and at which age the one becomes part of the other."""
STEPS = (60, 300, 3600)
SHOWN: Mapping[HealthSpan, tuple[timedelta, int]] = {
    HealthSpan.HOUR: (timedelta(hours=1), 60),
    HealthSpan.SIX_HOURS: (timedelta(hours=6), 300),
    HealthSpan.DAY: (timedelta(hours=24), 900),
    HealthSpan.WEEK: (timedelta(days=7), 2 * 3600),
    HealthSpan.MONTH: (timedelta(days=30), 6 * 3600),
    HealthSpan.QUARTER: (timedelta(days=90), 24 * 3600),
}
"""How long, and by which step in seconds: never a finer one than is kept that long."""


@dataclass(frozen=True)
class Grid:
    """The steps of one view."""

    step_s: int
    first: int
    """Unix time of the first step's start."""
    end: int
    """Of the last step's end."""

    @property
    def starts(self) -> range:
        """Unix times."""
        return range(self.first, self.end, self.step_s)


def grid(span: HealthSpan, now: datetime) -> Grid:
    """All steps of a span that ends now; the last one is not over yet."""
    length, step_s = SHOWN[span]
    at = int(now.timestamp())
    end = at - at % step_s + step_s
    return Grid(step_s, end - int(length.total_seconds()), end)


def start_of(now: datetime, step_s: int) -> int:
    """The Unix time at which the step began that `now` is in."""
    at = int(now.timestamp())
    return at - at % step_s


def time_of(unix: int) -> datetime:
    """In UTC."""
    return datetime.fromtimestamp(unix, tz=timezone.utc)


def percentile_ms(counts: Sequence[int], fraction: float) -> float | None:
    """The duration in milliseconds below which this fraction lies, linear within its bucket, as Prometheus' function
    `histogram_quantile` has it. What is longer than the last bound counts as the last bound. None: nothing was counted.

    Args:
        counts: By bucket of `DURATION_BOUNDS_S`.
        fraction: Above 0, at most 1.
    """
    total = sum(counts)
    if total == 0:
        return None
    wanted, below = fraction * total, 0
    for bucket, count in enumerate(counts):
        if count and below + count >= wanted:
            if bucket >= len(DURATION_BOUNDS_S):
                break
            low = DURATION_BOUNDS_S[bucket - 1] if bucket else 0.0
            return 1000 * (low + (DURATION_BOUNDS_S[bucket] - low) * (wanted - below) / count)
        below += count
    return 1000 * DURATION_BOUNDS_S[-1]
