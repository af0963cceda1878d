"""Each layout that exporters write holds the same two objects; what holds none is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from registry.contracts.catalogue.detection import Detection, OutputForm, detection_faults
from registry.contracts.tensors import Datatype
from registry.pictures.detections import DetectionError, DetectionLimits, Found, RawOutput, detect, doubt_of, reading_of
from registry.pictures.placement import Placement, own_pixels, placed
from registry.pictures.steps import PictureSteps

SIDE = 100
STEPS = PictureSteps(SIDE, SIDE, "RGB", "NCHW", "stretch", 0, 1.0, (), (), "FP32")
LABELS = ("cat", "dog")
CORNERS = np.array([[10, 20, 30, 60], [50, 50, 90, 70], [0, 0, 5, 5]], np.float32)
CENTRES = np.array([[20, 40, 20, 40], [70, 60, 40, 20], [2.5, 2.5, 5, 5]], np.float32)
LEFT_TOP = np.array([[10, 20, 20, 40], [50, 50, 40, 20], [0, 0, 5, 5]], np.float32)
SCORES = np.array([[0.1, 0.75], [0.5, 0.25], [0.05, 0.01]], np.float32)
FACTORS = np.array([[0.8], [0.9], [1.0]], np.float32)
NUMBERS = np.array([1, 0, 0])
BEST = np.array([0.75, 0.5, 0.05], np.float32)


def logits(shares: Any) -> Any:
    with np.errstate(divide="ignore"):
        return np.log(shares / (1 - shares)).astype(np.float32)


def padded(*rows: Any) -> Any:
    """Two rows of filling behind them, whose scores would count."""
    return [np.concatenate([row, np.ones((2, *row.shape[1:]), row.dtype)])[None] for row in rows]


YOLO_5 = {"boxes": {"output": "o"}, "format": "cxcywh", "objectness": {"output": "o", "at": 4}}
YOLO_5 |= {"scores": {"output": "o", "at": 5}, "nms": "class"}
YOLO_8 = {"boxes": {"output": "o", "transposed": True}, "format": "cxcywh", "nms": "class"}
YOLO_8 |= {"scores": {"output": "o", "at": 4, "transposed": True}}
END_TO_END = {"boxes": {"output": "o"}, "format": "xyxy", "nms": "graph"}
END_TO_END |= {"scores": {"output": "o", "at": 4}, "classes": {"output": "o", "at": 5}}
APART = {"boxes": {"output": "boxes"}, "scores": {"output": "scores"}, "nms": "graph"}
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "yolov5": (YOLO_5, {"o": np.hstack([CENTRES, FACTORS, SCORES / FACTORS])[None]}),
    "yolov8": (YOLO_8, {"o": np.hstack([CENTRES, SCORES]).T[None]}),
    "yolov8-seg": (YOLO_8 | {"extra_values": 3}, {"o": np.hstack([CENTRES, SCORES, CENTRES[:, :3]]).T[None]}),
    "end-to-end": (END_TO_END, {"o": np.hstack([CORNERS, BEST[:, None], NUMBERS[:, None]]).astype("<f4")[None]}),
    "torchvision": (
        APART | {"format": "xyxy", "classes": {"output": "labels"}, "background": "first"},
        {"boxes": CORNERS, "labels": NUMBERS + 1, "scores": BEST},
    ),
    "tensorflow": (
        APART | {"format": "yxyx", "normalised": True, "classes": {"output": "n"}, "background": "first", "count": "c"},
        dict(zip(("boxes", "n", "scores"), padded(CORNERS[:, [1, 0, 3, 2]] / SIDE, NUMBERS + 1.0, BEST), strict=True))
        | {"c": np.array([3], np.float32)},
    ),
    "detr": (
        APART | {"format": "cxcywh", "normalised": True, "activation": "softmax", "background": "last"},
        {"boxes": CENTRES[None] / SIDE, "scores": np.log(np.hstack([SCORES, 1 - SCORES.sum(1, keepdims=True)]))[None]},
    ),
    "rt-detr": (
        APART | {"format": "cxcywh", "normalised": True, "activation": "sigmoid"},
        {"boxes": CENTRES[None] / SIDE, "scores": logits(SCORES)[None]},
    ),
    "onnx-nms": (
        APART | {"format": "yxyx", "selected": "s", "scores": {"output": "scores", "transposed": True}},
        {
            "boxes": CORNERS[None][..., [3, 0, 1, 2]],  # any two opposite corners
            "scores": SCORES.T[None],
            "s": np.array([[0, 0, 1], [0, 1, 0], [0, 0, 2], [-1, -1, -1]]),
        },
    ),
    "efficient-nms": (
        APART | {"format": "xyxy", "classes": {"output": "n"}, "count": "c"},
        {"boxes": CORNERS[None], "scores": BEST[None], "n": NUMBERS.astype("<i4")[None], "c": np.array([[3]], "<i4")},
    ),
    "ssd": (
        {"boxes": {"output": "o", "at": 3}, "format": "xyxy", "normalised": True, "nms": "graph", "background": "first"}
        | {"scores": {"output": "o", "at": 2}, "classes": {"output": "o", "at": 1}},
        {"o": np.column_stack([np.zeros(3), NUMBERS + 1, BEST, CORNERS / SIDE]).astype("<f4")[None, None]},
    ),
    "yolov4": (APART | {"format": "xyxy"}, {"boxes": CORNERS[None, :, None], "scores": SCORES[None]}),
    "left-top": (APART | {"format": "xywh"}, {"boxes": LEFT_TOP[None], "scores": SCORES[None]}),
    "half": (APART | {"format": "xyxy"}, {"boxes": CORNERS.astype("<f2"), "scores": SCORES.astype("<f2")}),
    "double": (APART | {"format": "xyxy"}, {"boxes": CORNERS.astype("<f8"), "scores": SCORES.astype("<f8")}),
}
DATATYPES = {"f2": "FP16", "f4": "FP32", "f8": "FP64", "i8": "INT64", "i4": "INT32"}


def declared(said: dict[str, Any], **more: Any) -> Detection:
    return Detection.model_validate({"labels": LABELS, **said, **more})


def given(arrays: dict[str, Any]) -> dict[str, RawOutput]:
    return {name: RawOutput(DATATYPES[each.dtype.str[1:]], each.shape, each.tobytes()) for name, each in arrays.items()}


def found(said: dict[str, Any], arrays: dict[str, Any], placement: Placement | None = None, **limits: Any) -> Found:
    wanted = declared(said)
    forms = {name: OutputForm(Datatype(each.datatype), each.shape) for name, each in given(arrays).items()}
    assert detection_faults(wanted, forms) == ()
    bounds = DetectionLimits(wanted.score_threshold, wanted.iou_threshold, wanted.max_detections)._replace(**limits)
    return detect(reading_of(wanted, SIDE, SIDE), given(arrays), placement or own_pixels(STEPS), bounds)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layouts_of_the_exporters_hold_the_same_objects(layout: str) -> None:
    boxes, scores, classes = found(*LAYOUTS[layout])
    np.testing.assert_allclose(boxes, CORNERS[:2], atol=0.05)
    np.testing.assert_allclose(scores, BEST[:2], atol=1e-3)
    assert classes.tolist() == [1, 0]
    assert (boxes.dtype.str, scores.dtype.str, classes.dtype.str) == ("<f4", "<f4", "<i8")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_candidate_over_the_threshold_is_no_detection_and_no_error(layout: str) -> None:
    said, arrays = LAYOUTS[layout]
    boxes, scores, classes = found(said, arrays, score_threshold=0.999)
    assert (boxes.shape, scores.shape, classes.shape) == ((0, 4), (0,), (0,))


def test_no_candidates_at_all_are_no_error() -> None:
    nothing = {"boxes": np.zeros((0, 4), "<f4"), "labels": np.zeros(0, "<i8"), "scores": np.zeros(0, "<f4")}
    assert found(LAYOUTS["torchvision"][0], nothing).boxes.shape == (0, 4)
    assert found(LAYOUTS["left-top"][0], {"boxes": np.zeros((1, 0, 4), "<f4"), "scores": np.zeros((1, 0, 2), "<f4")})


def test_a_single_candidate_is_no_batch_dimension() -> None:
    said, arrays = LAYOUTS["torchvision"]
    assert found(said, {name: array[:1] for name, array in arrays.items()}).classes.tolist() == [1]


def test_boxes_come_back_in_the_pixels_of_the_picture() -> None:
    said, arrays = LAYOUTS["yolov8"]
    box = CORNERS[0]
    for resize, size, expected in (
        ("stretch", (200, 50), box * (2, 0.5, 2, 0.5)),
        ("pad", (200, 400), box * 4),
        ("letterbox", (200, 400), (box - (25, 0, 25, 0)) * 4),
        ("letterbox", (50, 25), (box - (0, 25, 0, 25)) / 2),
        ("crop", (200, 400), (box + np.array((0, 50, 0, 50))) * 2),
    ):
        width, height = size
        placement = placed(STEPS._replace(resize=resize, shorter_edge=SIDE), size)
        boxes = found(said, arrays, placement, max_detections=1).boxes
        np.testing.assert_allclose(boxes[0], np.clip(expected, 0, (width, height, width, height)), atol=1e-4)


def test_a_box_outside_of_the_picture_is_left_out_and_one_that_juts_out_is_clipped() -> None:
    rows = np.array([[-10, -10, 20, 20], [200, 0, 300, 50], [0, 0, 0, 50]], np.float32)
    scores = np.array([[0.5, 0.1], [0.9, 0.1], [0.9, 0.1]], np.float32)
    boxes, kept, _ = found(LAYOUTS["double"][0], {"boxes": rows, "scores": scores})
    assert boxes.tolist() == [[0, 0, 20, 20]]
    assert kept.tolist() == [0.5]


def test_a_candidate_has_its_best_class_or_each_over_the_threshold() -> None:
    said, arrays = LAYOUTS["rt-detr"]
    assert found(said, arrays, score_threshold=0.2).classes.tolist() == [1, 0]
    several = found(said | {"multi_label": True}, arrays, score_threshold=0.2)
    assert several.classes.tolist() == [1, 0, 1]
    np.testing.assert_allclose(several.scores, [0.75, 0.5, 0.25], atol=1e-6)


def test_boxes_of_one_object_are_one_detection_where_the_device_suppresses() -> None:
    boxes = np.array([[10, 10, 50, 50], [11, 10, 50, 50], [12, 10, 50, 50]], np.float32)
    scores = np.array([[0.5, 0], [0.9, 0], [0, 0.8]], np.float32)
    arrays = {"boxes": boxes, "scores": scores}
    said = LAYOUTS["double"][0]
    for nms, expected in (("graph", [0.9, 0.8, 0.5]), ("class", [0.9, 0.8]), ("agnostic", [0.9])):
        np.testing.assert_allclose(found(said | {"nms": nms}, arrays).scores, expected)
    np.testing.assert_allclose(found(said | {"nms": "class"}, arrays, iou_threshold=0.99).scores, [0.9, 0.8, 0.5])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused(value: float) -> None:
    scores = SCORES.copy()
    scores[2, 1] = value
    with pytest.raises(DetectionError, match="NaN or an infinity"):
        found(LAYOUTS["double"][0], {"boxes": CORNERS, "scores": scores})
    with pytest.raises(DetectionError, match="NaN or an infinity"):
        found(YOLO_5, {"o": np.hstack([CENTRES, np.full((3, 1), value, "<f4"), SCORES])[None]})


def test_an_infinite_logit_is_a_certain_score() -> None:
    said, arrays = LAYOUTS["rt-detr"]
    scores = np.full((1, 3, 2), -np.inf, "<f4")
    scores[0, 1, 1] = np.inf
    kept = found(said, arrays | {"scores": scores})
    assert (kept.scores.tolist(), kept.classes.tolist()) == ([1.0], [1])


def test_a_box_that_is_no_number_is_refused_where_its_score_counts() -> None:
    boxes = CORNERS.copy()
    boxes[2] = np.nan
    assert len(found(LAYOUTS["double"][0], {"boxes": boxes, "scores": SCORES}).boxes) == 2
    boxes[1] = np.inf
    with pytest.raises(DetectionError, match="a box is NaN or infinite"):
        found(LAYOUTS["double"][0], {"boxes": boxes, "scores": SCORES})


def test_logits_that_are_declared_as_scores_are_refused() -> None:
    with pytest.raises(DetectionError, match="over 1"):
        found(LAYOUTS["double"][0], {"boxes": CORNERS, "scores": SCORES * 9})


@pytest.mark.parametrize("number", [-1, 0.5, np.nan, 1e30])
def test_a_class_that_is_no_number_of_one_is_refused(number: float) -> None:
    rows = np.hstack([CORNERS, BEST[:, None], NUMBERS[:, None]]).astype("<f4")[None]
    rows[0, 2, 5] = number
    assert len(found(END_TO_END, {"o": rows}).boxes) == 2  # under the threshold
    rows[0, 1, 5] = number
    with pytest.raises(DetectionError, match="class"):
        found(END_TO_END, {"o": rows})


def test_the_background_is_no_object_whatever_its_score() -> None:
    said, arrays = LAYOUTS["torchvision"]
    assert found(said, arrays | {"labels": np.array([0, 1, 0])}).classes.tolist() == [0]
    last = said | {"background": "last"}
    assert found(last, arrays | {"labels": np.array([2, 0, 2])}).classes.tolist() == [0]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([[0, 0, 3]], "names what is not there"),
        ([[0, 2, 0]], "names what is not there"),
        ([[1, 0, 0]], "names what is not there"),
    ],
)
def test_a_selection_of_what_is_not_there_is_refused(rows: list[list[int]], why: str) -> None:
    said, arrays = LAYOUTS["onnx-nms"]
    with pytest.raises(DetectionError, match=why):
        found(said, arrays | {"s": np.array(rows)})


@pytest.mark.parametrize("count", [-1.0, 6.0, 2.5, np.nan])
def test_a_number_of_candidates_that_cannot_be_is_refused(count: float) -> None:
    said, arrays = LAYOUTS["tensorflow"]
    with pytest.raises(DetectionError, match="candidates"):
        found(said, arrays | {"c": np.array([count], np.float32)})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_that_are_said_to_be_normalised_are_a_doubt_and_the_other_way_round(layout: str) -> None:
    said, arrays = LAYOUTS[layout]
    right = declared(said)
    wrong = declared(said | {"normalised": not right.normalised})
    assert doubt_of(reading_of(right, SIDE, SIDE), given(arrays)) == ""
    assert f"normalised = {str(right.normalised).lower()}?" in doubt_of(reading_of(wrong, SIDE, SIDE), given(arrays))


def test_no_boxes_are_no_doubt() -> None:
    none = {"boxes": np.zeros((0, 4), "<f4"), "labels": np.zeros(0, "<i8"), "scores": np.zeros(0, "<f4")}
    assert doubt_of(reading_of(declared(LAYOUTS["torchvision"][0]), SIDE, SIDE), given(none)) == ""


def test_a_hundred_thousand_candidates_are_bounded() -> None:
    random = np.random.default_rng(3)
    low = random.uniform(0, 90, (100_000, 2))
    boxes = np.hstack([low, low + random.uniform(1, 3, (100_000, 2))]).astype("<f4")
    scores = random.uniform(0, 1, (100_000, 2)).astype("<f4")
    kept = found(LAYOUTS["double"][0] | {"nms": "class"}, {"boxes": boxes, "scores": scores}, max_detections=300)
    assert len(kept.scores) == 300
    assert kept.scores[0] == scores.max()
    assert (np.diff(kept.scores) <= 0).all()


def forms(arrays: dict[str, Any]) -> dict[str, OutputForm]:
    return {name: OutputForm(Datatype(each.datatype), each.shape) for name, each in given(arrays).items()}


def shaped(*shape: int, of: Any = np.float32) -> NDArray[Any]:
    return np.zeros(shape, of)


@pytest.mark.parametrize(
    ("layout", "changed", "why"),
    [
        ("yolov8", {"o": shaped(1, 4, 30)}, "has 4 values of each candidate; scores need 6"),
        ("yolov8", {"o": shaped(1, 7, 30)}, "it has 3 classes, and there are 2 labels"),
        ("yolov8", {"o": shaped(2, 6, 30)}, "holds 2 items; detections are made of one"),
        ("yolov8", {"o": shaped(1, 30, 6)}, "it has 26 classes, and there are 2 labels"),
        ("yolov8", {"p": shaped(1, 6, 30)}, "there is no output 'o'; the model has: p"),
        ("yolov8", {"o": shaped(1, 6, 30, of=np.int64)}, "is INT64; boxes and scores are floating-point"),
        ("yolov5", {"o": shaped(1, 30, 3)}, "has 3 values of each candidate; boxes need 4"),
        ("end-to-end", {"o": shaped(1, 30, 5)}, "has 5 values of each candidate; classes need 6"),
        ("torchvision", {"labels": shaped(4, of=np.int64)}, "is no [candidates, values]"),
        ("torchvision", {"boxes": shaped(4)}, "is no [candidates, values]"),
        ("detr", {"scores": shaped(1, 3, 2)}, "it has 2 classes, and there are 2 labels and the background"),
        ("detr", {"scores": shaped(1, 4, 3)}, "has 4 candidates, and the boxes have 3"),
        ("onnx-nms", {"scores": shaped(1, 3, 2)}, "transposed = false"),
        ("onnx-nms", {"s": shaped(5, 4, of=np.int64)}, "is no list of"),
        ("tensorflow", {"c": shaped(2)}, "holds more than the number of candidates"),
    ],
)
def test_outputs_that_are_not_as_declared_are_named(layout: str, changed: dict[str, Any], why: str) -> None:
    said, arrays = LAYOUTS[layout]
    kept = {} if "p" in changed else arrays
    faults = detection_faults(declared(said), forms({**kept, **changed}))
    assert [why in fault for fault in faults].count(True) == 1, faults


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes_that_are_not_known_yet_are_no_fault(layout: str) -> None:
    said, arrays = LAYOUTS[layout]
    open_shapes = {name: form._replace(shape=(-1,) * len(form.shape or ())) for name, form in forms(arrays).items()}
    assert detection_faults(declared(said), open_shapes) == ()
    assert (
        detection_faults(declared(said), {name: form._replace(shape=None) for name, form in open_shapes.items()}) == ()
    )


@pytest.mark.parametrize(
    ("layout", "more"),
    [
        ("end-to-end", {"activation": "softmax"}),
        ("end-to-end", {"multi_label": True}),
        ("onnx-nms", {"nms": "class"}),
        ("yolov8", {"max_detections": 1001}),
        ("yolov8", {"iou_threshold": 1.5}),
        ("yolov8", {"labels": []}),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(layout: str, more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"detection|max_detections|iou_threshold|labels"):
        declared(LAYOUTS[layout][0], **more)
