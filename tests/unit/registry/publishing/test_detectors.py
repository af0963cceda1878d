"""A publisher names an exporter's layout, or says all of it; what a file only looks like is told, and never used."""

from __future__ import annotations

from typing import Any

import pytest

from registry.client.errors import UsageFault
from registry.contracts.catalogue.manifest import Format, TensorSpec
from registry.inspection.facts import ModelFacts
from registry.inspection.ultralytics import Described
from registry.publishing.detectors import LAYOUTS, detection_of, resemblance
from registry.publishing.request import DetectionSection

LABELS = ("cat", "dog")


def facts(*outputs: tuple[str, tuple[int, ...]], described: Described | None = None) -> ModelFacts:
    specs = tuple(
        TensorSpec.model_validate({"name": name, "datatype": "FP32", "shape": shape}) for name, shape in outputs
    )
    return ModelFacts(Format.ONNX, outputs=specs, described=described)


def said(**fields: Any) -> DetectionSection:
    return DetectionSection.model_validate(fields, extra="forbid")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_and_labels_are_enough(layout: str) -> None:
    found = detection_of(said(layout=layout, labels=LABELS), facts(("y", (1, 6, 3))))
    assert found.labels == LABELS
    if layout.startswith("yolo"):
        assert found.outputs == ("y",)


def test_what_is_said_beside_the_layout_counts() -> None:
    section = said(layout="yolov8", labels=LABELS, iou_threshold=0.5, nms="agnostic", extra_values=32)
    found = detection_of(section, facts(("output0", (1, 38, 8400)), ("output1", (1, 32, 160, 160))))
    assert (found.boxes.output, found.iou_threshold, found.nms, found.extra_values) == ("output0", 0.5, "agnostic", 32)
    other = detection_of(
        said(layout="detr", labels=LABELS, scores={"output": "classes"}), facts(("classes", (1, 1, 3)))
    )
    assert (other.scores.output, other.boxes.output) == ("classes", "pred_boxes")


def test_all_may_be_said_without_a_layout() -> None:
    section = said(boxes={"output": "b"}, scores={"output": "s"}, format="xyxy", nms="graph", labels=LABELS, count="n")
    assert detection_of(section, facts()).outputs == ("b", "s", "n")


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({"layout": "yolov8"}, "no labels"),
        ({"layout": "yolov8", "labels": LABELS}, "has one output, and the model has several"),
        ({"labels": LABELS}, "incomplete"),
        ({"labels": LABELS, "layout": "torchvision", "activation": "softmax"}, "contradicts itself"),
    ],
)
def test_what_is_missing_or_contradicts_itself_is_named(section: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageFault, match=why):
        detection_of(said(**section), facts(("a", (1, 6, 3)), ("b", (1, 6, 3))))


def test_a_layout_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="yolov8"):
        said(layout="yolo", labels=LABELS)


def test_names_that_ultralytics_wrote_are_the_labels() -> None:
    file = facts(("output0", (1, 6, 8400)), described=Described(names=("cat", "dog's")))
    assert detection_of(said(layout="yolov8"), file).labels == ("cat", "dog's")
    assert detection_of(said(layout="yolov8", labels=("a", "b")), file).labels == ("a", "b")


@pytest.mark.parametrize("layout", ["torchvision", "tensorflow"])
@pytest.mark.parametrize("name", ["__background__", "background", "Background"])
def test_labels_that_begin_with_the_background_are_refused(layout: str, name: str) -> None:
    """`weights.meta["categories"]` of torchvision does, and all labels would be those of the class before."""
    with pytest.raises(UsageFault, match="without the background"):
        detection_of(said(layout=layout, labels=(name, *LABELS)), facts())


@pytest.mark.parametrize("task", ["obb", "classify"])
@pytest.mark.parametrize("layout", ["yolov8", "yolo-end-to-end"])
def test_a_file_of_another_task_is_not_read_as_boxes(layout: str, task: str) -> None:
    """A turned box is centre, size, score, class, angle: seven values, of which corners would be made."""
    file = facts(("output0", (1, 300, 7)), described=Described(task=task, names=LABELS, end_to_end=True))
    with pytest.raises(UsageFault, match=f"task is {task}"):
        detection_of(said(layout=layout), file)


YOLO = Described(task="detect", names=LABELS)


@pytest.mark.parametrize(
    ("outputs", "described", "layout"),
    [
        ([("output0", (1, 6, 8400))], YOLO, '"yolov8"'),
        ([("output0", (-1, 6, -1))], YOLO, '"yolov8"'),
        ([("output0", (1, 25200, 7))], Described(names=LABELS), '"yolov5"'),
        ([("output0", (1, 300, 6))], Described(task="detect", names=LABELS, end_to_end=True), '"yolo-end-to-end"'),
        ([("boxes", (-1, 4)), ("labels", (-1,)), ("scores", (-1,))], None, '"torchvision" and `labels`'),
        ([("logits", (1, 300, 80)), ("pred_boxes", (1, 300, 4))], None, '"detr" or "rt-detr" and `labels`'),
        ([("output0", (1, 6, 8400))], None, ""),
        ([("output0", (1, 6, 8400))], Described(task="classify", names=LABELS), ""),
        ([("y", (-1, 10))], None, ""),
    ],
)
def test_outputs_that_look_like_a_detectors_are_told_with_the_layout(
    outputs: list[Any], described: Described | None, layout: str
) -> None:
    text = resemblance(facts(*outputs, described=described))
    assert text.endswith(f"layout = {layout}") if layout else text == ""
