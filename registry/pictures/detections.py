"""From a detector's outputs to boxes in the picture's own pixels: what a manifest's `detection` says. Needs NumPy.

- Candidates whose score is over the threshold are looked at, the best MAX_CANDIDATES of them. Equal scores keep the
  candidates' order.
- A box is scaled back to the upright picture and clipped to it; one of which nothing lies in the picture is left out.
- NaN or infinite scores, and boxes or class numbers of candidates over the threshold that make no sense, are errors:
  a part of an answer would look like all of it.

It runs in the processes that decode pictures: what it is given has been checked by
`registry.contracts.catalogue.detection`, and here again where NumPy needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from registry.contracts.tensors import NUMPY_NAME, Datatype, numbers
from registry.pictures.placement import Placement
from registry.pictures.suppression import suppress

if TYPE_CHECKING:
    from registry.contracts.catalogue.detection import Detection, DetectionPart

MAX_CANDIDATES = 30_000
"""Of those over the threshold, before suppression: Ultralytics' `max_nms`."""
ROUNDING = 1e-3
"""A score may be over 1, and a class's number off a whole one, by that much."""
NORMALISED_MOST = 2.0
"""Boxes in 0 to 1 of the input hardly reach beyond, and all of those in pixels of it hardly stay below."""
_FLOATS = ("FP16", "FP32", "FP64")


class DetectionError(ValueError):
    """The outputs hold no detections. The message says what was expected and what came."""


class Part(NamedTuple):
    """A DetectionPart of the manifest."""

    output: str
    at: int
    transposed: bool


class DetectionLimits(NamedTuple):
    """What a request may say."""

    score_threshold: float
    iou_threshold: float
    max_detections: int


class Reading(NamedTuple):
    """A manifest's Detection without the labels, and the input's size: what JSON carries to another process."""

    boxes: Part
    format: str
    normalised: bool
    scores: Part
    columns: int
    """Scores of each candidate."""
    labels: int
    """Classes that have a name."""
    classes: Part | None
    objectness: Part | None
    activation: str
    background: str
    valid: str | None
    selected: str | None
    nms: str
    multi_label: bool
    width: int
    """Of the input tensor, in pixels."""
    height: int


class RawOutput(NamedTuple):
    """One output of the model."""

    datatype: str
    shape: tuple[int, ...]
    data: Any
    """Its bytes, little-endian, row-major."""


class Found(NamedTuple):
    """The detections of one picture, the best first."""

    boxes: NDArray[np.float32]
    """[n, 4]: left, top, right, bottom in the picture's own pixels."""
    scores: NDArray[np.float32]
    """[n], 0 to 1."""
    classes: NDArray[np.int64]
    """[n]: numbers of labels, from 0."""


def reading_of(declared: Detection, width: int, height: int) -> Reading:
    """What a manifest's `detection` says, for an input of that many pixels."""

    def part(said: DetectionPart | None) -> Part | None:
        return None if said is None else Part(said.output, said.at, said.transposed)

    return Reading(
        Part(declared.boxes.output, declared.boxes.at, declared.boxes.transposed),
        declared.format,
        declared.normalised,
        Part(declared.scores.output, declared.scores.at, declared.scores.transposed),
        declared.columns,
        len(declared.labels),
        part(declared.classes),
        part(declared.objectness),
        declared.activation,
        declared.background,
        declared.count,
        declared.selected,
        declared.nms,
        declared.multi_label,
        width,
        height,
    )


def detect(reading: Reading, outputs: Mapping[str, RawOutput], placement: Placement, limits: DetectionLimits) -> Found:
    """The detections. Raises DetectionError, MemoryError."""
    arrays = {name: _array(name, output) for name, output in outputs.items()}
    boxes = _matrix(reading.boxes, arrays, 4)
    if reading.selected is not None:
        candidates, classes, scores = _selected(reading, arrays, boxes)
    else:
        candidates, classes, scores = _scored(reading, arrays, boxes, limits.score_threshold)
    over = scores > limits.score_threshold
    candidates, classes, scores = candidates[over], classes[over], scores[over]
    if scores.size and float(scores.max()) > 1 + ROUNDING:
        raise DetectionError(f"a score is {float(scores.max()):g}, over 1: it needs an `activation`, or is no score")
    order = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    candidates, classes, scores = candidates[order], classes[order], scores[order]
    corners = _corners(reading, boxes[candidates])
    inside = _own(corners, placement)
    seen = ((inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])).nonzero()[0]
    corners, classes, scores, inside = corners[seen], classes[seen], scores[seen], inside[seen]
    if reading.nms == "graph":
        kept = np.arange(len(scores))[: limits.max_detections]
    else:
        among = classes if reading.nms == "class" else None
        kept = suppress(corners, among, limits.iou_threshold, limits.max_detections)
    return Found(inside[kept].astype("<f4"), np.minimum(scores[kept], 1.0).astype("<f4"), classes[kept].astype("<i8"))


def doubt_of(reading: Reading, outputs: Mapping[str, RawOutput]) -> str:
    """Whether the boxes look normalised and are said not to be, or the other way round; empty: they do not.

    For the publisher, who decides: of a model's random answer nothing is certain. Raises DetectionError.
    """
    boxes = _matrix(reading.boxes, {name: _array(name, output) for name, output in outputs.items()}, 4)
    largest = float(np.abs(boxes).max(initial=0.0))
    if reading.normalised and largest > NORMALISED_MOST:
        return f"values of boxes reach {largest:g}, and are said to be within 0 to 1: is it normalised = false?"
    if not reading.normalised and 0 < largest <= NORMALISED_MOST < min(reading.width, reading.height):
        return f"all boxes lie within {largest:.2g} pixels of the corner: is it normalised = true?"
    return ""


def _array(name: str, output: RawOutput) -> NDArray[Any]:
    kind = Datatype(output.datatype)
    try:
        raw = np.frombuffer(output.data, NUMPY_NAME[kind]).reshape(output.shape)
    except (KeyError, ValueError):
        raise DetectionError(
            f"output {name!r}: {output.datatype} of shape {list(output.shape)} came with {len(output.data)} bytes"
        ) from None
    if kind in (Datatype.INT32, Datatype.INT64, Datatype.FP32):
        return raw
    with np.errstate(over="ignore"):
        return np.asarray(raw.astype("<f4") if output.datatype in _FLOATS else numbers(kind, raw))


def _matrix(part: Part, arrays: Mapping[str, NDArray[Any]], width: int, candidates: int | None = None) -> NDArray[Any]:
    """[candidates, width]: the values of one kind. `candidates`: of the boxes, for an output of one value for each."""
    array = arrays.get(part.output)
    if array is None:
        raise DetectionError(f"the model gave no output {part.output!r}")
    shape = array.shape
    if width == 1 and part.at == 0 and array.size == candidates and sum(dim != 1 for dim in shape) <= 1:
        return array.reshape(-1, 1)
    if len(shape) < 2 or (len(shape) > 2 and shape[0] != 1):
        raise DetectionError(f"output {part.output!r} is {list(shape)}, no [candidates, values] of one item")
    if sum(dim != 1 for dim in shape[:-1]) > 1:
        raise DetectionError(f"output {part.output!r} is {list(shape)}, no [candidates, values]")
    rows = array.reshape(int(np.prod(shape[:-1], dtype=np.int64)), shape[-1])
    rows = rows.T if part.transposed else rows
    if rows.shape[1] < part.at + width or candidates not in (None, len(rows)):
        raise DetectionError(
            f"output {part.output!r} is {list(shape)}: {len(rows)} candidates with {rows.shape[1]} values; expected "
            f"{len(rows) if candidates is None else candidates} with {part.at + width}"
        )
    return rows[:, part.at : part.at + width]


def _scores(reading: Reading, arrays: Mapping[str, NDArray[Any]], count: int) -> NDArray[Any]:
    """[candidates, columns], within 0 to 1 where the model is what the manifest says. Raises for NaN and infinities."""
    scores = _matrix(reading.scores, arrays, reading.columns, count)
    factors = None if reading.objectness is None else _matrix(reading.objectness, arrays, 1, count)
    with np.errstate(all="ignore"):
        if reading.activation == "sigmoid":
            scores = _sigmoid(scores)
            factors = None if factors is None else _sigmoid(factors)
        elif reading.activation == "softmax" and scores.size:
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores = powers / powers.sum(axis=1, keepdims=True)
        scores = scores if factors is None else scores * factors
    if not np.isfinite(scores).all():
        raise DetectionError("the scores hold NaN or an infinity: no candidate can be ranked by them")
    return scores


def _sigmoid(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(1 / (1 + np.exp(-values)))


def _scored(
    reading: Reading, arrays: Mapping[str, NDArray[Any]], boxes: NDArray[Any], threshold: float
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(candidate, label's number, score) of what may be answered."""
    used, first = _count(reading, arrays, len(boxes)), int(reading.background == "first")
    scores = _scores(reading, arrays, len(boxes))[:used]
    if reading.classes is not None:
        candidates = (scores[:, 0] > threshold).nonzero()[0]
        numbered = _matrix(reading.classes, arrays, 1, len(boxes))[candidates, 0]
        classes = _class_numbers(numbered) - first
        real = classes != (reading.labels if reading.background == "last" else -1)
        candidates = candidates[real]
        return candidates, classes[real], scores[candidates, 0]
    scores = scores[:, first : first + reading.labels]
    if reading.multi_label:
        candidates, classes = (scores > threshold).nonzero()
    else:
        candidates = np.arange(len(scores))
        classes = scores.argmax(axis=1) if len(scores) else candidates
    return candidates, classes, scores[candidates, classes]


def _class_numbers(found: NDArray[Any]) -> NDArray[np.int64]:
    if not np.isfinite(found).all():
        raise DetectionError("the number of a class is NaN or infinite")
    whole = np.rint(found)
    if found.size and (float(np.abs(found - whole).max()) > ROUNDING or whole.min() < 0 or whole.max() >= 1 << 31):
        raise DetectionError("the number of a class is no whole number from 0")
    return np.asarray(whole.astype(np.int64))


def _count(reading: Reading, arrays: Mapping[str, NDArray[Any]], candidates: int) -> int:
    if reading.valid is None:
        return candidates
    array = arrays.get(reading.valid)
    if array is None or array.size != 1:
        raise DetectionError(f"output {reading.valid!r} is no number of candidates")
    count = float(array.reshape(-1)[0])
    if not 0 <= count <= candidates or count != int(count):
        raise DetectionError(f"output {reading.valid!r} says {count:g} candidates, and there are {candidates}")
    return int(count)


def _selected(
    reading: Reading, arrays: Mapping[str, NDArray[Any]], boxes: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """As `_scored`, of what the model itself has selected."""
    array = arrays.get(reading.selected or "")
    if array is None or array.ndim < 1 or array.shape[-1] != 3:
        raise DetectionError(f"output {reading.selected!r} is no list of (batch, class, candidate)")
    rows = array.reshape(-1, 3)
    rows = _class_numbers(rows[(rows >= 0).all(axis=1)]).reshape(-1, 3)
    scores = _scores(reading, arrays, len(boxes))
    if rows.size and (rows[:, 0].any() or rows[:, 1].max() >= reading.columns or rows[:, 2].max() >= len(boxes)):
        raise DetectionError(
            f"output {reading.selected!r} names what is not there: one item, {reading.columns} classes, "
            f"{len(boxes)} candidates"
        )
    first = int(reading.background == "first")
    rows = rows[(rows[:, 1] >= first) & (rows[:, 1] < first + reading.labels)]
    return rows[:, 2], rows[:, 1] - first, scores[rows[:, 2], rows[:, 1]]


def _corners(reading: Reading, boxes: NDArray[Any]) -> NDArray[np.float64]:
    """[n, 4]: left, top, right, bottom in pixels of the input."""
    values = boxes.astype("<f8")
    if not np.isfinite(values).all():
        raise DetectionError("a box is NaN or infinite")
    first, second = values[:, :2], values[:, 2:]
    if reading.format == "yxyx":
        first, second = first[:, ::-1], second[:, ::-1]
    if reading.format == "xywh":
        low, high = first, first + second
    elif reading.format == "cxcywh":
        low, high = first - second / 2, first + second / 2
    else:
        low, high = np.minimum(first, second), np.maximum(first, second)
    corners = np.hstack([low, high])
    if reading.normalised:
        corners *= (reading.width, reading.height, reading.width, reading.height)
    return corners


def _own(corners: NDArray[np.float64], placement: Placement) -> NDArray[np.float64]:
    """In the picture's own pixels, clipped to it."""
    (width, height), scaled, offset = placement
    factor = (width / scaled[0], height / scaled[1])
    own = (corners - (*offset, *offset)) * (*factor, *factor)
    return np.asarray(own.clip(0, (width, height, width, height)))
