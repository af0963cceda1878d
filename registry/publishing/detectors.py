"""`[detection]` of a publish file: the layouts of the common exporters by name, and what is said beside them.

A layout is what an exporter's models are known to give; the publisher names it. What a file only looks like is told to
the publisher and never used: two layouts may have outputs of the same shape and mean other things by them.

Sources:
    yolov5: YOLOv5, `Detect.forward` and `non_max_suppression`: [1, 25200, 5 + classes], in pixels of the input.
    yolov8: Ultralytics `Detect.forward` and `non_max_suppression`: [1, 4 + classes, 8400]; also YOLO 9, 11 and 12.
    yolo-end-to-end: Ultralytics' `nms=True` and YOLOv10: [1, 300, 6].
    torchvision: torchvision.models.detection: boxes [n, 4], labels [n] from 1, scores [n], no batch dimension.
    tensorflow: TensorFlow Object Detection API, `export_inference_graph.py`.
    detr, rt-detr: transformers, `post_process_object_detection` of the two, as `optimum` exports them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from registry.client.errors import UsageFault
from registry.contracts.catalogue.detection import Detection
from registry.contracts.catalogue.manifest import TensorSpec
from registry.inspection.facts import ModelFacts
from registry.publishing.request import DetectionSection, faults

_NO_BOXES = {
    "obb": "Boxes that are turned are not made here: leave out [detection], and the raw outputs are answered",
    "classify": "Give its names in [classification]",
}
"""Tasks of Ultralytics' models, and what to do."""
_ONLY = ""
"""Stands for the output of a model that has one, or `output0`."""
LAYOUTS: Mapping[str, dict[str, Any]] = {
    "yolov5": {
        "boxes": {"output": _ONLY},
        "format": "cxcywh",
        "objectness": {"output": _ONLY, "at": 4},
        "scores": {"output": _ONLY, "at": 5},
        "nms": "class",
        "iou_threshold": 0.45,
    },
    "yolov8": {
        "boxes": {"output": _ONLY, "transposed": True},
        "format": "cxcywh",
        "scores": {"output": _ONLY, "at": 4, "transposed": True},
        "nms": "class",
        "iou_threshold": 0.7,
    },
    "yolo-end-to-end": {
        "boxes": {"output": _ONLY},
        "format": "xyxy",
        "scores": {"output": _ONLY, "at": 4},
        "classes": {"output": _ONLY, "at": 5},
        "nms": "graph",
    },
    "torchvision": {
        "boxes": {"output": "boxes"},
        "format": "xyxy",
        "scores": {"output": "scores"},
        "classes": {"output": "labels"},
        "background": "first",
        "nms": "graph",
    },
    "tensorflow": {
        "boxes": {"output": "detection_boxes"},
        "format": "yxyx",
        "normalised": True,
        "scores": {"output": "detection_scores"},
        "classes": {"output": "detection_classes"},
        "background": "first",
        "count": "num_detections",
        "nms": "graph",
    },
    "detr": {
        "boxes": {"output": "pred_boxes"},
        "format": "cxcywh",
        "normalised": True,
        "scores": {"output": "logits"},
        "activation": "softmax",
        "background": "last",
        "nms": "graph",
    },
    "rt-detr": {
        "boxes": {"output": "pred_boxes"},
        "format": "cxcywh",
        "normalised": True,
        "scores": {"output": "logits"},
        "activation": "sigmoid",
        "multi_label": True,
        "nms": "graph",
    },
}


def detection_of(section: DetectionSection, facts: ModelFacts) -> Detection:
    """What the manifest says. Raises UsageFault: something is missing, or contradicts itself."""
    said = section.model_dump(exclude_unset=True, exclude={"layout"})
    layout = LAYOUTS.get(section.layout or "", {})
    only = _only_output(facts.outputs) if section.layout else ""
    found = {name: _placed(value, only) for name, value in layout.items()} | said
    if section.layout and section.layout.startswith("yolo") and "labels" not in found:
        found["labels"] = _names(facts)
    if not found.get("labels"):
        raise UsageFault("The detection has no labels", hint="Give labels, or labels_file, in [detection]")
    _require_known_meaning(section, facts, found)
    if _ONLY in [part.get("output") for part in found.values() if isinstance(part, dict)]:
        raise UsageFault(
            f"The layout {section.layout} has one output, and the model has several",
            hint='Say which: boxes = { output = "…" }, and scores, classes and objectness, where the layout has them',
        )
    try:
        return Detection.model_validate(found)
    except ValidationError as error:
        text = tuple(f"detection.{fault}" for fault in faults(error))
        hint = f"Or name the exporter: layout = {' | '.join(LAYOUTS)}"
        raise UsageFault("The detection is incomplete, or contradicts itself", hint=hint, errors=text) from error


def _require_known_meaning(section: DetectionSection, facts: ModelFacts, found: Mapping[str, Any]) -> None:
    """Refuses what fits by its shapes and would be read otherwise than it is meant. Raises UsageFault."""
    task = facts.described.task if facts.described is not None else ""
    if task in _NO_BOXES and section.layout:
        raise UsageFault(
            f"The file says that its task is {task}, whose outputs are no boxes of layout {section.layout}",
            hint=_NO_BOXES[task],
        )
    labels = found["labels"]
    if found.get("background") == "first" and labels[0].strip("_ ").lower() == "background":
        raise UsageFault(
            f"The first label is {labels[0]!r}, and the labels are those without the background, class 0 of the model",
            hint="Leave it out, or each box would have the label of another class",
        )


def _only_output(outputs: Sequence[TensorSpec]) -> str:
    names = [spec.name for spec in outputs]
    return names[0] if len(names) == 1 else "output0" if "output0" in names else _ONLY


def _placed(value: Any, only: str) -> Any:
    return {**value, "output": value["output"] or only} if isinstance(value, dict) else value


def _names(facts: ModelFacts) -> tuple[str, ...]:
    """Of the classes, as Ultralytics' exporter wrote them into the file; empty: none that are whole."""
    return facts.described.names if facts.described is not None else ()


def resemblance(facts: ModelFacts) -> str:
    """A sentence about the layout that the outputs look like; empty: none. For the publisher, who decides."""
    layout = _layout_like(facts)
    if not layout:
        return ""
    more = "" if layout.startswith("yolo") and _names(facts) else " and `labels`"
    name = " or ".join(f'"{each}"' for each in layout.split("|"))
    return f"the outputs look like a detector's: for boxes, give it [image] and [detection] with layout = {name}{more}"


def _layout_like(facts: ModelFacts) -> str:
    names = {spec.name for spec in facts.outputs}
    if {"detection_boxes", "detection_scores", "detection_classes"} <= names:
        return "tensorflow"
    if {"boxes", "labels", "scores"} <= names:
        return "torchvision"
    if {"logits", "pred_boxes"} <= names:
        return "detr|rt-detr"
    first = next((spec.shape for spec in facts.outputs if spec.name == _only_output(facts.outputs)), ())
    if facts.described is None or facts.described.task not in ("", "detect", "segment") or len(first) != 3:
        return ""
    classes = len(_names(facts))
    if first[2] == 6 and facts.described.end_to_end:
        return "yolo-end-to-end"
    return "yolov8" if first[1] == 4 + classes else "yolov5" if first[2] == 5 + classes else ""
