"""The detections of one active worker: what a request may ask of them, and the outputs of its reply.

A reply has `boxes` FP32 [n, 4] (left, top, right, bottom in the picture's own pixels), `scores` FP32 [n], `classes`
INT64 [n] and `labels` BYTES [n], the best first. A class without a label is named by its number. Detections are made of
one item; of a tensor in place of a picture, the pixels are those of the input.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import numpy as np

from agent.worker.spawn import printable
from registry.contracts.catalogue.detection import (
    BOXES,
    CLASSES,
    LABELS,
    MAX_DETECTIONS,
    SCORES,
    Detection,
    OutputForm,
    detection_faults,
)
from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import Datatype
from registry.inference.errors import RequestError
from registry.inference.packets import Buffer
from registry.inference.reply import OutputTensor
from registry.inference.request import RequestParameters
from registry.pictures.detections import DetectionLimits, RawOutput, reading_of
from registry.pictures.placement import own_pixels
from registry.pictures.steps import PictureSteps

_LENGTH = struct.Struct("<I")
_LIMITS = ("score_threshold", "iou_threshold", "max_detections")


class Detector:
    """The detection of one active worker."""

    def __init__(self, declared: Detection, steps: PictureSteps, shape: tuple[int, ...]) -> None:
        """`shape`: of the input for one item."""
        self.declared = declared
        self.reading = reading_of(declared, steps.width, steps.height)
        self.own = own_pixels(steps)
        """Where a tensor lies that was not made of a picture."""
        self.shape = shape
        self.usual = DetectionLimits(declared.score_threshold, declared.iou_threshold, declared.max_detections)
        self._labels = tuple(map(packed, declared.labels))

    def limits(self, said: RequestParameters) -> DetectionLimits:
        """What a request asks, within its bounds. Raises RequestError."""
        for name in ("score_threshold", "iou_threshold"):
            share = getattr(said, name)
            if share is not None and not 0 <= share <= 1:
                raise RequestError(InferenceCode.BAD_PAYLOAD, f"expected {name} within 0 to 1, got {share:g}")
        if said.max_detections is not None and not 1 <= said.max_detections <= MAX_DETECTIONS:
            raise RequestError(
                InferenceCode.BAD_PAYLOAD,
                f"expected max_detections within 1 to {MAX_DETECTIONS}, got {str(said.max_detections)[:20]}",
            )
        if said.iou_threshold is not None and self.declared.nms == "graph":
            raise RequestError(
                InferenceCode.UNSUPPORTED_PARAMETER,
                "iou_threshold: the model's own graph removes boxes of the same object, by a threshold of its own",
            )
        given = {name: value for name in _LIMITS if (value := getattr(said, name)) is not None}
        return self.usual._replace(**given)

    def read(self, outputs: Iterable[OutputTensor]) -> dict[str, RawOutput]:
        """The outputs that hold the detections. Raises RequestError when they are not as the manifest says."""
        wanted = self.declared.outputs
        found = {each.name: each for each in outputs if each.name in wanted}
        forms = {name: OutputForm(Datatype(each.datatype), each.shape) for name, each in found.items()}
        faults = detection_faults(self.declared, forms)
        if faults:
            raise no_detections(faults[0])
        return {name: RawOutput(str(each.datatype), each.shape, each.data) for name, each in found.items()}

    def tensors(self, boxes: Buffer, scores: Buffer, classes: Buffer) -> tuple[OutputTensor, ...]:
        """The outputs of a reply, from FP32 [n, 4], FP32 [n] and INT64 [n]."""
        numbers: Sequence[int] = np.frombuffer(classes, "<i8").tolist()
        count = len(numbers)
        labels = b"".join(map(self._label, numbers))
        return (
            OutputTensor(BOXES, "FP32", (count, 4), boxes),
            OutputTensor(SCORES, "FP32", (count,), scores),
            OutputTensor(CLASSES, "INT64", (count,), classes),
            OutputTensor(LABELS, "BYTES", (count,), labels),
        )

    def _label(self, number: int) -> bytes:
        return self._labels[number] if 0 <= number < len(self._labels) else packed(str(number))


def limits_named(said: RequestParameters) -> str:
    """The first parameter by which a request wants detections; empty: it has none."""
    limit = next((name for name in _LIMITS if getattr(said, name) is not None), "")
    return "detections" if said.detections else limit


def no_detections(why: str) -> RequestError:
    """The model ran, and its outputs hold no detections as the manifest describes them."""
    return RequestError(InferenceCode.RUN_FAILED, printable(f"no detections can be made of the outputs: {why}", 500))


def packed(label: str) -> bytes:
    """An element of a BYTES tensor."""
    encoded = label.encode()
    return _LENGTH.pack(len(encoded)) + encoded
