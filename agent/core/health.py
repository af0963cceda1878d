"""What is measured of requests: histograms of durations. Pure: time comes in as an argument. Memory is constant.

`Histogram` has 30 buckets a decade, which grow by 8 %, so a quantile is at most 4 % from the truth (5 % promised). Its
edges are those of `DURATION_BOUNDS_S` too, within 0.3 %, so that the few buckets of reports and metrics are sums of its
own. `DurationCounter` has only those few.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log, log10
from typing import NamedTuple

from registry.contracts.counters import DURATION_BOUNDS_S

A_DECADE = 30
GROWTH = 10 ** (1 / A_DECADE)
_PER_LOG = 1 / log(GROWTH)
BUCKETS = 300
"""The last bucket begins at GROWTH ** 299: 9.3e9 us, 2.6 hours."""
_EDGES = (0, *(round(A_DECADE * log10(bound * 1e6)) for bound in DURATION_BOUNDS_S), BUCKETS)
"""The first bucket of each of the few."""


class DurationBuckets(NamedTuple):
    """Durations in the few buckets of `DURATION_BOUNDS_S`."""

    counts: tuple[int, ...] = (0,) * (len(DURATION_BOUNDS_S) + 1)
    """Up to each bound and over the one before; at last those over the last bound."""
    sum_s: float = 0.0
    """All of them together, seconds."""


NO_DURATIONS = DurationBuckets()


class DurationCounter:
    """Counts durations in the few buckets."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(DURATION_BOUNDS_S) + 1)
        self.sum_s = 0.0

    def record(self, seconds: float) -> None:
        """Counts one duration; what is below 0 (none is) counts as the shortest."""
        self.counts[bisect_left(DURATION_BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def view(self) -> DurationBuckets:
        """What was counted so far, unchanging."""
        return DurationBuckets(tuple(self.counts), self.sum_s)


class Histogram:
    """Counts durations in microseconds. Everything below 1 us counts as 1 us, everything over the top as the top."""

    __slots__ = ("counts", "sum_us")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.sum_us = 0.0

    def record(self, microseconds: float, times: int = 1) -> None:
        """Counts one duration, or so many alike."""
        self.sum_us += microseconds * times
        if microseconds < 1.0:
            self.counts[0] += times
        else:
            bucket = int(log(microseconds) * _PER_LOG)
            self.counts[bucket if bucket < BUCKETS else BUCKETS - 1] += times

    def view(self) -> HistogramView:
        """What was counted so far, unchanging."""
        return HistogramView(tuple(self.counts), self.sum_us)


@dataclass(frozen=True)
class HistogramView:
    """A histogram at one moment. The difference of two views is what happened between them."""

    counts: tuple[int, ...] = (0,) * BUCKETS
    sum_us: float = 0.0
    """All durations together."""

    @property
    def total(self) -> int:
        """How many durations were counted."""
        return sum(self.counts)

    def since(self, earlier: HistogramView) -> HistogramView:
        """What was counted after `earlier`, a view of the same histogram."""
        counts = tuple(now - then for now, then in zip(self.counts, earlier.counts, strict=True))
        return HistogramView(counts, self.sum_us - earlier.sum_us)

    def buckets(self) -> DurationBuckets:
        """In the few buckets."""
        counts = tuple(sum(self.counts[first:after]) for first, after in pairwise(_EDGES))
        return DurationBuckets(counts, self.sum_us / 1e6)

    def quantile(self, fraction: float) -> float:
        """Microseconds that `fraction` (0 to 1) of the durations did not pass; 0 when there were none."""
        return self.quantiles((fraction,))[0]

    def quantiles(self, fractions: Sequence[float]) -> tuple[float, ...]:
        """Several quantiles, each as `quantile` says."""
        total = self.total
        return tuple(self._at(fraction * total) if total else 0.0 for fraction in fractions)

    def _at(self, rank: float) -> float:
        seen = 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if count and seen >= rank:
                return float(GROWTH ** (bucket + 0.5))
        return 0.0
