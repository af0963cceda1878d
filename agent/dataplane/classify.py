"""Scores to labels: an output [N, classes] becomes `label` BYTES [N, k] and `score` FP32 [N, k], best first.

Softmax over the classes when the manifest asks. Equal scores keep the classes' order; NaN comes last. A class
without a label is named by its number.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from agent.dataplane.plan import OutputTensor, RequestError, quote
from agent.dataplane.signature import LABEL, SCORE
from registry.contracts.codes import InferenceCode
from registry.contracts.manifest import Classification
from registry.contracts.tensors import NUMPY_NAME, Datatype

_LENGTH = struct.Struct("<I")


class Classifier:
    """The classification of one active worker."""

    def __init__(self, declared: Classification) -> None:
        self.output = declared.output
        self._softmax = declared.softmax
        self._top_k = declared.top_k
        self._labels = tuple(_packed(label) for label in declared.labels)

    def classify(self, output: OutputTensor) -> tuple[OutputTensor, OutputTensor]:
        """(`label`, `score`). A tensor of rank 1 is one item; raises RequestError for another rank or BYTES."""
        scores = self._scores(output)
        items, classes = scores.shape
        k = min(self._top_k, classes)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        with np.errstate(over="ignore"):
            best = np.take_along_axis(scores, order, axis=1).astype("<f4")
        labels = b"".join(self._label(index) for index in order.ravel().tolist())
        shape = (items, k)
        return OutputTensor(LABEL, "BYTES", shape, labels), OutputTensor(SCORE, "FP32", shape, best.tobytes())

    def _scores(self, output: OutputTensor) -> NDArray[np.float64]:
        shape: tuple[int, ...] = (1, *output.shape) if len(output.shape) == 1 else output.shape
        if output.datatype in (Datatype.BYTES, Datatype.BOOL) or len(shape) != 2:
            raise RequestError(
                InferenceCode.RUN_FAILED,
                f"output {quote(output.name)} cannot be classified: expected numbers [N, classes], "
                f"got {output.datatype} {list(output.shape)}",
            )
        raw = np.frombuffer(output.data, NUMPY_NAME[Datatype(output.datatype)])
        if output.datatype == Datatype.BF16:
            raw = (raw.astype("<u4") << 16).view("<f4")
        scores: NDArray[np.float64] = raw.astype(np.float64).reshape(shape)
        if not self._softmax or scores.size == 0:
            return scores
        with np.errstate(invalid="ignore"):
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def _label(self, index: int) -> bytes:
        return self._labels[index] if index < len(self._labels) else _packed(str(index))


def _packed(label: str) -> bytes:
    encoded = label.encode()
    return _LENGTH.pack(len(encoded)) + encoded
