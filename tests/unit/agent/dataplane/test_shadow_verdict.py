"""When a candidate's answer in its shadow agrees with the active model's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agent.dataplane.shadow import verdict
from registry.contracts.catalogue.manifest import Tolerance
from registry.contracts.tensors import Datatype

NAN = float("nan")
TRAINED_ANEW = ([[1.0, 5.0]], [[2.0, 3.0]])
"""Other numbers, the same top class."""
HUGE = ([[0.0, 3e38]], [[0.0, 1.0]])


def agrees(scores: str | None, tolerance: Tolerance, **outputs: tuple[Any, Any]) -> bool:
    pairs = {
        name: (Datatype.FP32, np.array(got, "<f4"), np.array(want, "<f4")) for name, (got, want) in outputs.items()
    }
    return verdict(pairs, tolerance, scores).passed


def test_a_regression_of_two_numbers_agrees_within_the_tolerance_only() -> None:
    assert not agrees(None, Tolerance(), y=TRAINED_ANEW)
    assert agrees(None, Tolerance(absolute=2.0), y=TRAINED_ANEW)


@pytest.mark.parametrize("outputs", [TRAINED_ANEW, HUGE, ([1.0, 5.0], [2.0, 3.0])], ids=["near", "far", "of rank 1"])
def test_a_classifier_agrees_by_its_top_class_however_far_the_numbers_are(outputs: tuple[Any, Any]) -> None:
    assert agrees("y", Tolerance(), y=outputs)
    assert agrees("y", Tolerance(), y=outputs, embedding=([9.0], [0.0]))


@pytest.mark.parametrize("rank", [1, 2])
def test_a_classifier_with_another_top_class_does_not_agree_even_within_the_tolerance(rank: int) -> None:
    got, want = np.array([0.50001, 0.5]), np.array([0.5, 0.50001])
    both = (got, want) if rank == 1 else (got[None], want[None])
    assert not agrees("y", Tolerance(), y=both)


def test_of_a_classifiers_many_items_as_many_must_agree_as_the_manifest_says() -> None:
    half = ([[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]])
    assert not agrees("y", Tolerance(), y=half)
    assert agrees("y", Tolerance(top1_agreement=0.5), y=half)


@pytest.mark.parametrize(
    "outputs", [([[5.0]], [[1.0]]), ([[[1.0, 5.0]] * 2], [[[2.0, 3.0]] * 2])], ids=["one class", "of rank 3"]
)
def test_scores_without_a_top_class_are_judged_by_the_tolerance(outputs: tuple[Any, Any]) -> None:
    assert not agrees("y", Tolerance(), y=outputs)


def test_a_manifest_that_does_not_ask_for_the_top_class_is_judged_by_the_tolerance() -> None:
    assert not agrees("y", Tolerance(top1_agreement=0.0), y=TRAINED_ANEW)


def test_scores_of_another_form_or_not_a_number_never_agree() -> None:
    assert not agrees("y", Tolerance(), y=([[1.0, 5.0, 0.0]], [[1.0, 5.0]]))
    assert not agrees("y", Tolerance(), y=([[NAN, NAN]], [[3.0, 2.0]]))
