"""What a program counts and measures: one table says the name, unit and meaning of each figure, and what is not in it
cannot be counted. Health reports, the text for Prometheus and docs/metrics.md are made from the tables.

What was lost has a name that ends in `_dropped`, what somebody did not take one that ends in `_refused`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

PREFIX = "modelfleet_"
"""Of every name in the text for Prometheus."""
MAX_LABELS = 64
"""Values of labels that one figure is counted by; what comes then is counted under OTHER."""
OTHER = "other"
MAX_LABEL = 64
"""Characters of a label's value."""
LabelledValues = Mapping[tuple[str, ...], float]
"""By the values of the labels."""
Figures = Mapping[str, LabelledValues]
"""By name."""


class Metric(NamedTuple):
    """One figure."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    """A counter only rises while the program runs; a gauge is what is true now; a histogram counts by size."""
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()


def table(*metrics: Metric) -> Mapping[str, Metric]:
    """The figures by name."""
    return {metric.name: metric for metric in metrics}


class Counters:
    """Totals since the program started. Each name and label belongs to one thread; any thread may look."""

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._totals: dict[str, dict[tuple[str, ...], int]] = {
            name: {} if metric.labels else {(): 0} for name, metric in metrics.items() if metric.kind == "counter"
        }

    def add(self, name: str, count: int = 1, label: str | None = None) -> bool:
        """Counts. True: it is the first of its name and label, which is worth a line in the log.

        Raises:
            KeyError: the table has no such counter.
        """
        totals = self._totals[name]
        key = () if label is None else (label[:MAX_LABEL],)
        if key not in totals and len(totals) >= MAX_LABELS:
            key = (OTHER,)
        before = totals.get(key, 0)
        totals[key] = before + count
        return count > 0 and before == 0

    def total(self, name: str, label: str | None = None) -> int:
        """Over all labels, or of one."""
        totals = self._totals[name]
        return sum(totals.values()) if label is None else totals.get((label[:MAX_LABEL],), 0)

    def figures(self) -> dict[str, dict[tuple[str, ...], float]]:
        """All of them now."""
        return {name: dict(totals) for name, totals in self._totals.items()}


def lost(name: str) -> bool:
    """Does the figure, `name` or `name:label`, count what was dropped or refused?"""
    return name.partition(":")[0].endswith(("_dropped", "_refused"))


def total(samples: LabelledValues) -> int:
    """Over all labels."""
    return int(sum(samples.values()))


def flat(figures: Figures, names: Iterable[str]) -> dict[str, int]:
    """`name`, or `name:label`, to the count, of those that are not 0."""
    return {
        ":".join((name, *labels)): int(value)
        for name in names
        for labels, value in figures.get(name, {}).items()
        if value
    }
