"""Histograms of durations as devices report them, and what is new in them. Pure.

A session's buckets only rise. Buckets that fell are of a slot that was recreated: all of them are new. Those of a
session whose requests were counted before it told of durations are where the counting begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from registry.contracts.counters import DURATION_BOUNDS_S
from registry.contracts.device.messages import DurationTotals


@dataclass(frozen=True)
class Durations:
    """By bucket of `DURATION_BOUNDS_S`, zeros at the end left out, and their sum in seconds."""

    counts: tuple[int, ...] = ()
    sum_s: float = 0.0

    def since(self, before: Durations) -> Durations:
        """What is new after `before`."""
        pairs = list(zip_longest(self.counts, before.counts, fillvalue=0))
        if any(now < then for now, then in pairs):
            return self
        return Durations(tuple(now - then for now, then in pairs), max(self.sum_s - before.sum_s, 0.0))

    def to_json(self) -> list[float]:
        """For the database: the counts, then the sum."""
        return [*self.counts, self.sum_s]

    @classmethod
    def from_json(cls, value: Sequence[float] | None) -> Durations | None:
        """The inverse of `to_json`; None for nothing."""
        return cls(tuple(map(int, value[:-1])), value[-1]) if value else None


NOTHING = Durations()


def told(totals: DurationTotals) -> Durations | None:
    """None: the device tells of none, or by bounds that are not known here."""
    if not totals.counts or len(totals.counts) > len(DURATION_BOUNDS_S) + 1:
        return None
    return Durations(totals.counts, totals.sum_s)
