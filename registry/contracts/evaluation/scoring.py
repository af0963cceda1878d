"""Scores a model on a validation set, whoever runs it: what goes in, which output counts, what is right.

Pure, and without an import of NumPy: arrays come in, only their operators and methods are used.
"""

from __future__ import annotations

from collections.abc import Sequence

from registry.contracts.catalogue.classes import scores_of
from registry.contracts.catalogue.manifest import Classification, TensorSpec
from registry.contracts.comparison.parity import numbers
from registry.contracts.evaluation.datasets import Dataset, input_names, scores_output, target_of
from registry.contracts.evaluation.metrics import BY_EXPECTED, METRICS, Array
from registry.contracts.tensor_file import TensorFileError


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
