"""Detections: what may be asked of a model that finds objects in pictures, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Union

BOXES, SCORES, CLASSES, LABELS = OBJECT_OUTPUTS = ("boxes", "scores", "classes", "labels")
"""The outputs of detections: FP32 [n, 4], FP32 [n], INT64 [n], BYTES [n], best first."""
_DATATYPES = ("FP32", "FP32", "INT64", "BYTES")


@dataclass(frozen=True)
class DetectionOptions:
    """What is asked of a detector. None: as the model's publisher declared."""

    score_threshold: float | None = None
    """Only objects with a higher score are answered, 0 to 1."""
    iou_threshold: float | None = None
    """Boxes whose intersection over union with a better one is larger are left out, 0 to 1. Only where the device
    removes them, and not the model itself."""
    max_detections: int | None = None
    """So many are answered at most, the best first; 1 to 1000."""

    def parameters(self) -> dict[str, Any]:
        """As a request says it."""
        said = {name: value for name, value in vars(self).items() if value is not None}
        return {"detections": True, **said}


Asked = Union[DetectionOptions, bool, None]
"""False: the model's own outputs, of a picture, too. True: detections, of tensors, too. None: detections of a picture,
outputs of tensors."""


def parameters_of(asked: Asked) -> dict[str, Any]:
    """What a request says of detections. Raises TypeError."""
    if asked is None:
        return {}
    if isinstance(asked, bool):
        return {"detections": asked}
    if not isinstance(asked, DetectionOptions):
        raise TypeError(f"detections is a {type(asked).__name__}: give DetectionOptions, True or False")
    return asked.parameters()


class DetectedObject(NamedTuple):
    """An object that was found in a picture."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom in the pixels of the picture as a viewer shows it, after its EXIF orientation. The left
    edge of the first pixel is 0. Of tensors: in the pixels of the input."""
    score: float
    """0 to 1."""
    class_id: int
    """The number of its class, from 0."""
    label: str
    """The name of its class; the number where it has none."""


def objects_of(datatypes: Mapping[str, str], bits: Mapping[str, Any]) -> list[DetectedObject]:
    """The objects of an answer, the best first. Raises LookupError where it has no detections."""
    found = [bits.get(name) for name in OBJECT_OUTPUTS]
    right = [datatypes.get(name) for name in OBJECT_OUTPUTS] == list(_DATATYPES)
    if not right or [array.shape for array in found if array is not None] != _shapes(found[1]):
        raise LookupError(
            "the answer has no detections: send a picture, or ask with detections=True, to a model that has a detection"
        )
    rows = zip(*(array.tolist() for array in found if array is not None))
    return [DetectedObject(tuple(box), score, number, label.decode()) for box, score, number, label in rows]


def _shapes(scores: Any) -> list[tuple[int, ...]]:
    count = len(scores) if scores is not None and scores.ndim == 1 else -1
    return [(count, 4), (count,), (count,), (count,)]
