"""Suppression keeps the boxes that a plain comparison of all pairs keeps, and that ONNX's own operator keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from registry.pictures.suppression import suppress

CORNER = st.integers(0, 24)
BOXES = st.lists(st.tuples(CORNER, CORNER, st.integers(0, 12), st.integers(0, 12), st.integers(0, 2)), max_size=40)
THRESHOLDS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


def made(drawn: list[tuple[int, int, int, int, int]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    table = np.array(drawn, np.int64).reshape(-1, 5)
    return np.hstack([table[:, :2], table[:, :2] + table[:, 2:4]]).astype(np.float32), table[:, 4]


def overlap(one: Any, other: Any) -> float:
    """Intersection over union, in exact numbers: the corners are whole."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - common
    return common / union if union else 0.0


def plainly(boxes: Any, classes: Any, threshold: float, limit: int) -> list[int]:
    """A box stays when none that stays before it covers it."""
    kept: list[int] = []
    for index, box in enumerate(boxes.tolist()):
        rivals = [boxes[each].tolist() for each in kept if classes is None or classes[each] == classes[index]]
        if len(kept) < limit and all(overlap(box, rival) <= threshold for rival in rivals):
            kept.append(index)
    return kept


@given(BOXES, THRESHOLDS, st.integers(1, 50), st.booleans())
def test_the_same_boxes_stay_as_when_all_pairs_are_compared(
    drawn: list[Any], threshold: float, limit: int, agnostic: bool
) -> None:
    boxes, classes = made(drawn)
    among = None if agnostic else classes
    assert suppress(boxes, among, threshold, limit).tolist() == plainly(boxes, among, threshold, limit)


def operator(limit: int, threshold: float) -> ort.InferenceSession:
    constants = [
        helper.make_tensor("limit", TensorProto.INT64, [], [limit]),
        helper.make_tensor("iou", TensorProto.FLOAT, [], [threshold]),
    ]
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", ["boxes", "scores", "limit", "iou"], ["selected"])],
        "suppression",
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, None, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, None, None]),
        ],
        [helper.make_tensor_value_info("selected", TensorProto.INT64, [None, 3])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.45, 0.7])
@pytest.mark.parametrize(("count", "side", "limit", "times"), [(60, 100, 50, 20), (1000, 400, 1000, 2)])
def test_the_same_boxes_stay_as_with_the_operator_of_onnx(
    threshold: float, count: int, side: int, limit: int, times: int
) -> None:
    """Of each class by itself, as the operator does it."""
    random = np.random.default_rng(7)
    session = operator(limit, threshold)
    for _ in range(times):
        low = random.uniform(0, side, (count, 2))
        boxes = np.hstack([low, low + random.uniform(1, 60, (count, 2))]).astype(np.float32)
        scores = random.permutation(3 * count).reshape(1, 3, count).astype(np.float32) / (3 * count)
        (selected,) = session.run(None, {"boxes": boxes[None], "scores": scores})
        for number in range(3):
            order = np.argsort(-scores[0, number])
            kept = order[suppress(boxes[order], None, threshold, limit)]
            assert sorted(kept) == sorted(selected[selected[:, 1] == number, 2])


def test_a_box_whose_overlap_equals_the_threshold_stays() -> None:
    boxes = np.array([[0, 0, 2, 1], [1, 0, 3, 1]], np.float32)  # 1 of 3
    assert suppress(boxes, None, 1 / 3, 9).tolist() == [0, 1]
    assert suppress(boxes, None, 0.33, 9).tolist() == [0]
    assert suppress(boxes, np.array([0, 1]), 0.33, 9).tolist() == [0, 1]


def test_no_boxes_and_boxes_without_an_area_are_no_error() -> None:
    assert suppress(np.zeros((0, 4)), None, 0.5, 9).tolist() == []
    assert suppress(np.zeros((3, 4)), None, 0.5, 9).tolist() == [0, 1, 2]
