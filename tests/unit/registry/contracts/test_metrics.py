"""What a classifier scores, and what goes with a validation set."""

from __future__ import annotations

import numpy as np
import pytest

from registry.contracts.catalogue.manifest import Classification, TensorSpec
from registry.contracts.evaluation import METRICS, Scoring, items_at, read_dataset
from registry.contracts.tensor_file import Tensor, TensorFileError, write_tensors
from registry.contracts.tensors import Datatype

SCORES = np.array([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
X = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2))
Y = TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 10))


def value(metric: str, *batches: tuple[np.ndarray, list[int]]) -> float:  # type: ignore[type-arg]
    counting = METRICS[metric]()
    for scores, labels in batches:
        counting.add(scores, np.array(labels))
    return counting.value()


def test_accuracy_is_the_share_of_right_top_classes_over_all_batches() -> None:
    assert value("accuracy", (SCORES, [1, 0, 0, 0])) == 0.75
    assert value("accuracy", (SCORES[:1], [1]), (SCORES[1:], [1, 0, 0])) == 0.5
    assert value("accuracy") == 0.0


def test_the_right_class_may_be_among_the_five_best() -> None:
    scores = np.arange(10.0)[None].repeat(3, axis=0)
    assert value("top5", (scores, [9, 5, 4])) == pytest.approx(2 / 3)
    assert value("top5", (SCORES, [0, 0, 1, 1])) == 1.0, "of two classes every one is"


def test_equal_scores_are_no_luck() -> None:
    equal = np.zeros((2, 10))
    assert value("accuracy", (equal, [0, 9])) == 0.5
    assert value("top5", (equal, [4, 5])) == 0.5


def test_a_row_with_a_nan_is_wrong() -> None:
    broken = np.array([[np.nan, 1.0], [1.0, np.nan]])
    for metric in METRICS:
        assert value(metric, (broken, [0, 1])) == 0.0, metric


def test_macro_f1_weighs_every_class_the_same() -> None:
    scores = np.eye(3)[[0, 0, 0, 1, 2]]
    # class 0: TP 2, FP 1, FN 0; class 1: TP 1, FP 0, FN 1; class 2: TP 1
    assert value("macro_f1", (scores, [0, 0, 1, 1, 2])) == pytest.approx((4 / 5 + 2 / 3 + 1) / 3)
    assert value("macro_f1", (scores[:2], [0, 0]), (scores[2:], [1, 1, 2])) == pytest.approx((4 / 5 + 2 / 3 + 1) / 3)


def labelled(**changes: Tensor) -> bytes:
    tensors = {"in/x": Tensor(Datatype.FP32, (2, 2), bytes(16)), "labels": Tensor(Datatype.INT8, (2,), bytes(2))}
    return write_tensors({**tensors, **changes})


def scoring(
    content: bytes,
    inputs: tuple[TensorSpec, ...] = (X,),
    outputs: tuple[TensorSpec, ...] = (Y,),
    **more: Classification,
) -> Scoring:
    return Scoring(read_dataset(content, len(content)), "accuracy", inputs, outputs, more.get("classification"))


def test_the_output_that_counts_is_the_classifications_or_the_only_one_with_classes() -> None:
    other = TensorSpec(name="z", datatype=Datatype.FP32, shape=(-1, 4))
    assert scoring(labelled()).output == "y"
    with pytest.raises(TensorFileError, match="y, z"):
        scoring(labelled(), outputs=(Y, other))
    assert (
        scoring(labelled(), outputs=(Y, other), classification=Classification(output="z", labels=("a",))).output == "z"
    )
    with pytest.raises(TensorFileError, match="none is"):
        scoring(labelled(), outputs=(X.model_copy(update={"shape": (-1, 1)}),))


def test_inputs_go_by_name_when_there_are_several() -> None:
    two = (X, X.model_copy(update={"name": "w"}))
    with pytest.raises(TensorFileError, match="no input 'w'"):
        scoring(labelled(), inputs=two)
    assert set(scoring(labelled(**{"in/w": Tensor(Datatype.FP32, (2, 2), bytes(16))}), inputs=two).inputs) == {"x", "w"}


def test_more_rows_than_items_are_filled_with_the_last_and_not_counted() -> None:
    assert items_at(np.array([[1], [2], [3]]), 2, 3).tolist() == [[3], [3], [3]]
    counting = scoring(labelled())
    counting.add(np.eye(10, dtype="<f4")[[0, 5, 5]], np.zeros(2, "i1"))
    assert counting.value() == 0.5
    with pytest.raises(TensorFileError, match="not all from 0 to 9"):
        counting.add(np.eye(10, dtype="<f4")[:1], np.array([10]))
    with pytest.raises(TensorFileError, match=r"is not \[N, classes\]"):
        counting.add(np.zeros((2, 1), "<f4"), np.zeros(2, "i1"))
