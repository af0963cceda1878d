"""Scores a classifier on a validation set, whoever runs it: what goes in, which output counts, what is right, by which
metric; the same on a device and without one.

Pure, and without an import of NumPy: arrays come in, only their operators and methods are used. A row of scores with a
NaN counts as wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from registry.contracts.catalogue.classes import scores_of
from registry.contracts.catalogue.manifest import Classification, TensorSpec
from registry.contracts.evaluation.datasets import LABELS, Dataset
from registry.contracts.tensor_file import TensorFileError, TensorSpan, shape_fits
from registry.contracts.tensors import numbers

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


def input_names(dataset: Dataset, inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Model input to the dataset's: by name, or the only one to the only one. Types and shapes are checked.

    Raises TensorFileError.
    """
    names = {spec.name: spec.name for spec in inputs}
    if len(inputs) == 1 and len(dataset.inputs) == 1:
        names = {inputs[0].name: next(iter(dataset.inputs))}
    for spec in inputs:
        span = dataset.inputs.get(names[spec.name])
        if span is None:
            raise TensorFileError(f"it has no input {spec.name!r}, only {', '.join(dataset.inputs)}")
        if span.datatype != spec.datatype or not spec.shape or not shape_fits(span.shape[1:], spec.shape[1:]):
            have, want = f"{span.datatype} {list(span.shape[1:])}", f"{spec.datatype} {list(spec.shape[1:])}"
            raise TensorFileError(f"an item of its input {names[spec.name]!r} is {have}, the model takes {want}")
    return names


def scores_output(classification: Classification | None, outputs: Sequence[TensorSpec]) -> str:
    """The output with the scores (`catalogue.classes`): the classification's, else the only one of that form.

    Raises TensorFileError.
    """
    if classification is not None:
        return classification.output
    shapes = {spec.name: scores_of(spec.shape, 0) for spec in outputs}
    found = [name for name, scores in shapes.items() if scores is not None and scores.each not in (0, 1)]
    if len(found) != 1:
        raise TensorFileError(f"which of its outputs has the scores? {', '.join(found) or 'none is [N, classes]'}")
    return found[0]


def target_of(dataset: Dataset, metric: str, output: str) -> TensorSpan:
    """What is right, by that metric: the labels, or the expected scores. Raises TensorFileError."""
    target = dataset.expected.get(output) if metric in BY_EXPECTED else dataset.labels
    if target is None:
        needed = f"out/{output}" if metric in BY_EXPECTED else LABELS
        raise TensorFileError(f"the metric {metric} needs {needed} in the validation set")
    return target


class Scoring:
    """One validation set through one model, by one metric; items are added in order."""

    def __init__(
        self,
        dataset: Dataset,
        metric: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        classification: Classification | None,
    ) -> None:
        """Raises TensorFileError: the set does not go with the model or the metric, which is one of METRICS."""
        names = input_names(dataset, inputs)
        self.inputs = {name: dataset.inputs[there] for name, there in names.items()}
        """Model input to where its items are."""
        self.output = scores_output(classification, outputs)
        self.target = target_of(dataset, metric, self.output)
        """Where the right answers are: labels, or expected scores."""
        self.rows = max(1, *(spec.shape[0] for spec in inputs))
        """Items of one request: 1, or as many as a variant was built for."""
        self._datatype = next((spec.datatype for spec in outputs if spec.name == self.output), None)
        self._by_expected = metric in BY_EXPECTED
        self._metric = METRICS[metric]()
        self._classification = classification

    def add(self, output: Array, right: Array) -> None:
        """What the model gave for the next items, and the same items of the target; of more, the rest is not looked at.

        Raises TensorFileError: the output has no scores, or a label is none of its classes.
        """
        scores = self._scores(output)
        if scores is None or scores.shape[1] < 2 or len(scores) < len(right):
            raise TensorFileError(f"the output {self.output!r} is not [N, classes]")
        scores = scores[: len(right)]
        labels = (numbers(self.target.datatype, right).argmax(-1) if self._by_expected else right).astype("<i8")
        if labels.min() < 0 or labels.max() >= scores.shape[1]:
            raise TensorFileError(f"its labels are not all from 0 to {scores.shape[1] - 1}, as the model's classes are")
        self._metric.add(scores, labels)

    def _scores(self, output: Array) -> Array | None:
        """[N, classes] in double precision; None: it has no scores."""
        declared = self._classification
        shape = scores_of(output.shape, len(declared.labels) if declared else 3)
        if self._datatype is None or shape is None:
            return None
        scores = numbers(self._datatype, output).reshape(shape)
        if shape.each != 1 or declared is None or len(declared.labels) > 2:
            return scores
        # The score of the second of two classes: a logit against 0, a probability against 1 - p.
        both = scores.repeat(2, axis=1)
        both[:, 0] = 0 if declared.softmax else 1 - both[:, 1]
        return both

    def value(self) -> float:
        """Of all items so far."""
        return self._metric.value()


def items_at(array: Array, at: int, count: int) -> Array:
    """The items from `at` on, `count` of them: the last one again where there are not so many."""
    return array.take(list(range(at, at + count)), axis=0, mode="clip")
