"""Scores to labels: an output [N, classes] becomes `label` BYTES [N, k] and `score` FP32 [N, k], best first.

`registry.contracts.catalogue.classes` says which shapes hold scores. Softmax over the classes when the manifest asks.
Equal scores keep the classes' order; NaN comes last. A class without a label is named by its number.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.dataplane.oip.signature import LABEL, SCORE
from registry.contracts.catalogue.classes import ROUNDING, scores_of
from registry.contracts.catalogue.manifest import Classification, TensorSpec
from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import NUMPY_NAME, Datatype, numbers
from registry.inference.errors import RequestError, quote
from registry.inference.reply import OutputTensor

_LENGTH = struct.Struct("<I")


class Classifier:
    """The classification of one active worker."""

    def __init__(self, declared: Classification, outputs: Sequence[TensorSpec]) -> None:
        self.output = declared.output
        self._shape = next((spec.shape for spec in outputs if spec.name == declared.output), None)
        self._softmax = declared.softmax
        self._top_k = declared.top_k
        self._labels = tuple(_packed(label) for label in declared.labels)

    def classify(self, output: OutputTensor) -> tuple[OutputTensor, OutputTensor]:
        """(`label`, `score`). Raises RequestError for an output that holds no scores for the labels."""
        raw = self._raw(output)
        scores = _softmax(raw) if self._softmax else raw
        if len(self._labels) == 1 and raw.shape[1] == 2:  # the other class is nobody's
            raw, scores = raw[:, 1:], scores[:, 1:]
        items, classes = raw.shape
        k = min(self._top_k, classes)
        order = np.argsort(-raw, axis=1, kind="stable")[:, :k]
        with np.errstate(over="ignore"):
            best = np.take_along_axis(scores, order, axis=1).astype("<f4")
        labels = b"".join(self._label(index) for index in order.ravel().tolist())
        shape = (items, k)
        return OutputTensor(LABEL, "BYTES", shape, labels), OutputTensor(SCORE, "FP32", shape, best.tobytes())

    def _raw(self, output: OutputTensor) -> NDArray[np.float64]:
        """[N, classes], as the model gives them; of one number for each item the scores of both classes."""
        shape = scores_of(output.shape, len(self._labels), self._shape)
        if output.datatype in (Datatype.BYTES, Datatype.BOOL) or shape is None:
            raise self._refusal(output, "expected numbers [N, classes]")
        kind = Datatype(output.datatype)
        scores: NDArray[np.float64] = numbers(kind, np.frombuffer(output.data, NUMPY_NAME[kind])).reshape(shape)
        if shape.each != 1:
            return scores
        if len(self._labels) > 2:
            raise self._refusal(output, f"one number for each item, and {len(self._labels)} labels")
        if self._softmax:
            return np.hstack([np.zeros_like(scores), scores])
        if ((scores < -ROUNDING) | (scores > 1 + ROUNDING)).any():
            raise self._refusal(output, "softmax = false says that it is a probability, and it is not within 0 to 1")
        probabilities = scores.clip(0, 1)
        return np.hstack([1 - probabilities, probabilities])

    @staticmethod
    def _refusal(output: OutputTensor, why: str) -> RequestError:
        return RequestError(
            InferenceCode.RUN_FAILED,
            f"output {quote(output.name)} cannot be classified: {why}; it is {output.datatype} {list(output.shape)}",
        )

    def _label(self, index: int) -> bytes:
        return self._labels[index] if index < len(self._labels) else _packed(str(index))


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    if scores.size == 0:
        return scores
    with np.errstate(invalid="ignore"):
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _packed(label: str) -> bytes:
    encoded = label.encode()
    return _LENGTH.pack(len(encoded)) + encoded
