"""Detections: what a manifest says of a detector's outputs, and whether outputs are so. Pure.

One description covers what the common exporters write; ADR 0034 has the table of them. A model gives candidates, each
with a box and scores. A part of the description (`DetectionPart`) says in which output the values of one kind stand,
and where in it. An output holds a matrix: [candidates, values], or [values, candidates] where it is `transposed`.
Dimensions of 1 besides these two do not matter, and the first of three or more is the batch's and must be 1: requests
for detections have one item. An output of one value for each candidate may have any such shape.

Sources of the forms: Ultralytics `non_max_suppression` (YOLOv5: cxcywh, objectness, classes; YOLOv8 to 12: cxcywh and
classes, transposed; end to end: xyxy, score, class); torchvision `detection` (boxes xyxy, labels from 1, scores, no
batch); TensorFlow Object Detection API, `export_inference_graph.py` (`detection_boxes` yxyx in 0 to 1, classes from 1,
`num_detections`); transformers `post_process_object_detection` of DETR (softmax, the last class is "no object") and
RT-DETR (sigmoid), boxes cxcywh in 0 to 1; ONNX NonMaxSuppression-11 (`selected_indices`: batch, class, box).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from registry.contracts.tensors import FLOAT8, MAX_NAME, Datatype
from registry.contracts.wire import Wire

MAX_LABELS = 65_536
"""Classes of a classifier or a detector."""
MAX_DETECTIONS = 1000
"""Of one picture."""
BOXES, SCORES, CLASSES, LABELS = DETECTED = ("boxes", "scores", "classes", "labels")
"""The outputs of an answer with detections."""
Labels = Annotated[tuple[Annotated[str, Field(max_length=128)], ...], Field(min_length=1, max_length=MAX_LABELS)]
"""Names of classes, in the model's order."""
_OutputName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
_Share = Annotated[float, Field(ge=0, le=1)]
_FLOATS = FLOAT8 | {Datatype.FP16, Datatype.FP32, Datatype.FP64, Datatype.BF16}
_NO_NUMBERS = (Datatype.BYTES, Datatype.BOOL)


class DetectionPart(Wire):
    """Where the values of one kind stand."""

    output: _OutputName
    """The output of the model."""
    at: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    """The first of them among a candidate's values in that output."""
    transposed: bool = False
    """False: the output is [candidates, values]. True: [values, candidates]."""


class Detection(Wire):
    """How a model's outputs become boxes with scores and labels."""

    boxes: DetectionPart
    """Four values of each candidate."""
    format: Literal["xyxy", "yxyx", "xywh", "cxcywh"]
    """xyxy, yxyx: two opposite corners; xywh: left, top, width, height; cxcywh: centre, width, height."""
    normalised: bool = False
    """False: in pixels of the input tensor. True: in 0 to 1 of its width and height."""
    scores: DetectionPart
    """A score of each class; with `classes`, one score."""
    classes: DetectionPart | None = None
    """The number of the candidate's class. None: it is the class of the highest score."""
    objectness: DetectionPart | None = None
    """A factor of all scores of a candidate. None: 1."""
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    """Of the scores, and sigmoid of the objectness, too. none: they are within 0 to 1 already."""
    background: Literal["none", "first", "last"] = "none"
    """A class that means "no object": number 0, so that `labels` begin with class 1, or the one after the labels."""
    extra_values: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    """Of a candidate behind its class scores, which are not read: 32 mask coefficients of a YOLO for segmentation."""
    count: _OutputName | None = None
    """The output with the number of candidates that count; the others are filling. None: all do."""
    selected: _OutputName | None = None
    """`selected_indices` of ONNX's NonMaxSuppression, rows of (batch, class, candidate): only these count, each with
    the score of that class. Rows of negative numbers are filling. None: all candidates count."""
    labels: Labels
    """Names of the classes, without the background, in the model's order."""
    nms: Literal["graph", "class", "agnostic"]
    """Who removes boxes that cover the same object. graph: the model. class: the device, among boxes of one class.
    agnostic: the device, among all boxes."""
    iou_threshold: _Share = 0.45
    """The device removes boxes whose intersection over union with a better one is larger. Unused with `graph`."""
    score_threshold: _Share = 0.25
    """Only candidates with a higher score are answered."""
    max_detections: Annotated[int, Field(ge=1, le=MAX_DETECTIONS)] = 300
    """So many of one picture are answered at most, the best first."""
    multi_label: bool = False
    """False: a candidate is answered with its best class. True: with each class over the threshold."""

    @model_validator(mode="after")
    def _parts_go_together(self) -> Detection:
        if self.classes is not None and (self.activation == "softmax" or self.multi_label or self.selected):
            raise ValueError("detection: with classes there is one score, so no softmax, multi_label or selected")
        if self.selected is not None and (self.nms != "graph" or self.multi_label or self.count is not None):
            raise ValueError("detection: selected goes with nms = graph, without multi_label and count")
        if self.classes is not None and self.extra_values:
            raise ValueError("detection: extra_values stand behind scores of classes, and there is one score")
        return self

    @property
    def columns(self) -> int:
        """Scores of each candidate: one where `classes` says which class it is."""
        return 1 if self.classes is not None else len(self.labels) + (self.background != "none")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that are read, each once."""
        parts = (self.boxes, self.scores, self.classes, self.objectness)
        named = (*(part.output for part in parts if part is not None), self.count, self.selected)
        return tuple(dict.fromkeys(name for name in named if name is not None))


class OutputForm(NamedTuple):
    """Of one output, declared or real."""

    datatype: Datatype
    """Of its elements."""
    shape: tuple[int, ...] | None
    """-1: a dimension that is not known. None: nothing is known."""


class _Matrix(NamedTuple):
    candidates: int
    values: int


def detection_faults(declared: Detection, outputs: Mapping[str, OutputForm]) -> tuple[str, ...]:
    """Why outputs are not as declared, one sentence each; empty: they are, as far as is known."""
    return tuple(dict.fromkeys(_faults(declared, outputs)))


def _faults(declared: Detection, outputs: Mapping[str, OutputForm]) -> Iterator[str]:
    have = ", ".join(outputs)
    for name in declared.outputs:
        form = outputs.get(name)
        if form is None:
            yield f"there is no output {name!r}; the model has: {have}"
        elif form.datatype in _NO_NUMBERS:
            yield f"output {name!r} is {form.datatype}; boxes, scores and classes are numbers"
        elif form.datatype not in _FLOATS and name in (declared.boxes.output, declared.scores.output):
            yield f"output {name!r} is {form.datatype}; boxes and scores are floating-point numbers"
    if not all(name in outputs for name in declared.outputs):
        return
    boxes = _matrix(declared.boxes, outputs)
    if isinstance(boxes, str):
        yield boxes
        return
    if -1 < boxes.values < declared.boxes.at + 4:
        said, least = _said(declared.boxes.output, outputs), declared.boxes.at + 4
        yield f"{said} has {boxes.values} values of each candidate; boxes need {least}"
    for kind in ("scores", "classes", "objectness"):
        yield from _part_faults(declared, kind, boxes.candidates, outputs)
    count = outputs[declared.count].shape if declared.count is not None else None
    if count is not None and any(dim not in (1, -1) for dim in count):
        yield f"{_said(declared.count or '', outputs)} holds more than the number of candidates"
    rows = outputs[declared.selected].shape if declared.selected is not None else None
    if rows is not None and (not rows or rows[-1] not in (3, -1) or len([dim for dim in rows[:-1] if dim != 1]) > 1):
        yield f"{_said(declared.selected or '', outputs)} is no list of (batch, class, candidate)"


def _part_faults(declared: Detection, kind: str, candidates: int, outputs: Mapping[str, OutputForm]) -> Iterator[str]:
    part: DetectionPart | None = getattr(declared, kind)
    if part is None:
        return
    width = declared.columns if kind == "scores" else 1
    shape = outputs[part.output].shape
    if shape is None or (width == 1 and part.at == 0 and is_column(shape, candidates)):
        return
    found = _matrix(part, outputs)
    if isinstance(found, str):
        yield found
        return
    said = _said(part.output, outputs)
    if -1 not in (found.candidates, candidates) and found.candidates != candidates:
        yield (
            f"{said} has {found.candidates} candidates, and the boxes have {candidates}: is it transposed = "
            f"{str(not part.transposed).lower()}?"
        )
    elif kind == "scores" and declared.classes is None and found.values > part.at:
        classes = found.values - part.at - declared.extra_values
        if classes != width:
            more = f" and {declared.extra_values} extra_values" if declared.extra_values else ""
            yield (
                f"{said} has {found.values} values of each candidate: with {part.at} before the scores{more} it has "
                f"{classes} classes, and there are {len(declared.labels)} labels"
                + ("" if declared.background == "none" else " and the background")
            )
    elif -1 < found.values < part.at + width:
        yield f"{said} has {found.values} values of each candidate; {kind} need {part.at + width}"


def is_column(shape: Sequence[int], candidates: int) -> bool:
    """Does an output of that shape hold one value for each candidate? Where a dimension is not known, it may."""
    wide = [dim for dim in shape if dim != 1]
    return len(wide) <= 1 and (-1 in (*wide, candidates) or prod(wide) == candidates)


def _matrix(part: DetectionPart, outputs: Mapping[str, OutputForm]) -> _Matrix | str:
    """The sizes of an output, -1: not known; or why it is no matrix."""
    shape = outputs[part.output].shape
    if shape is None:
        return _Matrix(-1, -1)
    said = _said(part.output, outputs)
    if len(shape) < 2:
        return f"{said} is no [candidates, values]"
    if len(shape) > 2 and shape[0] not in (1, -1):
        return f"{said} holds {shape[0]} items; detections are made of one"
    rest = shape[1:-1] if len(shape) > 2 else shape[:1]
    if len([dim for dim in rest if dim not in (1, -1)]) > 1:
        return f"{said} is no [candidates, values], with nothing but 1 in other dimensions"
    others = -1 if -1 in rest else prod(rest)
    return _Matrix(shape[-1], others) if part.transposed else _Matrix(others, shape[-1])


def _said(name: str, outputs: Mapping[str, OutputForm]) -> str:
    return f"output {name[:64]!r}, {list(outputs[name].shape or ())},"
