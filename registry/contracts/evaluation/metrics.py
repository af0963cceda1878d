"""What a classifier scores on a validation set: metric to function, the same on a device and without one.

Pure, and without an import of NumPy: arrays come in, only their operators and methods are used.
A row of scores with a NaN counts as wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

Array: TypeAlias = Any
"""A `numpy.ndarray`."""


class EvaluationMetric(Protocol):
    """Adds up batch by batch."""

    def add(self, scores: Array, labels: Array) -> None:
        """Scores [N, classes], the right classes [N] (integers in range)."""
        ...

    def value(self) -> float:
        """Of all batches so far; 0..1."""
        ...


class TopK:
    """The share of items whose right class is among the k best. Of equal scores the first is the better one."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._right = 0
        self._items = 0

    def add(self, scores: Array, labels: Array) -> None:
        """See Metric."""
        best = (-scores).argsort(-1, kind="stable")[:, : self._k]
        found = (best == labels.reshape(-1, 1)).any(-1)
        self._right += int((found & _whole(scores)).sum())
        self._items += len(labels)

    def value(self) -> float:
        """See Metric."""
        return self._right / self._items if self._items else 0.0


class MacroF1:
    """The mean over the classes that occur of 2 TP / (2 TP + FP + FN)."""

    def __init__(self) -> None:
        self._hits: Counter[int] = Counter()
        self._said: Counter[int] = Counter()
        self._true: Counter[int] = Counter()

    def add(self, scores: Array, labels: Array) -> None:
        """See Metric."""
        said = scores.argmax(-1)
        self._hits.update(labels[(said == labels) & _whole(scores)].tolist())
        self._said.update(said.tolist())
        self._true.update(labels.tolist())

    def value(self) -> float:
        """See Metric."""
        classes = self._said.keys() | self._true.keys()
        each = [2 * self._hits[c] / (self._said[c] + self._true[c]) for c in classes]
        return sum(each) / len(each) if each else 0.0


METRICS: dict[str, Callable[[], EvaluationMetric]] = {
    "accuracy": lambda: TopK(1),
    "top5": lambda: TopK(5),
    "macro_f1": MacroF1,
    "agreement": lambda: TopK(1),
}
"""`agreement` takes as right what the set's expected output has as its top class, not the labels."""
BY_EXPECTED = frozenset({"agreement"})
"""Metrics that need an expected output in the validation set; the others need labels."""


def _whole(scores: Array) -> Array:
    """Rows without a NaN."""
    return (abs(scores) >= 0).all(-1)
