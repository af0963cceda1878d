"""The numerical probe: it sees items that mix, and passes those that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from agent.backends.base import TensorInfo
from agent.worker.measure import measure, same, veto
from tests.fakes.sessions import FunctionSession

X, Y = TensorInfo("x", "FP32", (-1, 2)), TensorInfo("y", "FP32", (-1, 2))
Function = Callable[[Any], Any]


def tried(function: Function, datatype: str = "FP32", columns: int = 2, cap: int = 32) -> str:
    x, y = TensorInfo("x", datatype, (-1, columns)), TensorInfo("y", datatype, (-1, columns))
    return veto(FunctionSession((x,), (y,), lambda feeds: {"y": function(feeds["x"])}), cap)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - x.mean(),
        lambda x: np.cumsum(x, 0),
        lambda x: np.sort(x, 0),
        lambda x: x[::-1],
        lambda x: x * len(x),
        lambda x: np.where(len(x) > 2, x + 1, x),
        lambda x: np.maximum.accumulate(x, 0),
        lambda x: x / max(1e-9, np.abs(x).max()),
        lambda x: (x > x.mean()).astype(x.dtype),
        lambda x: x[:1] + 0 * x,
        lambda x: np.unique(x, axis=0),
    ],
)
def test_items_that_mix_are_seen(function: Function) -> None:
    assert "trial run" in tried(function)


@pytest.mark.parametrize("datatype", ["FP64", "FP32", "FP16", "INT64", "UINT8", "BOOL", "BYTES"])
def test_items_that_do_not_mix_pass(datatype: str) -> None:
    assert tried(lambda x: x[:, ::-1], datatype) == ""


@pytest.mark.parametrize("datatype", ["INT64", "INT8", "BOOL", "UINT32"])
def test_integers_of_one_element_still_differ_from_item_to_item(datatype: str) -> None:
    assert tried(lambda x: np.logical_or.accumulate(x, 0).astype(x.dtype), datatype, columns=1) != ""


def test_not_more_items_are_tried_than_may_be_joined() -> None:
    session = FunctionSession((X,), (Y,), lambda feeds: {"y": feeds["x"]})
    assert veto(session, 2) == ""
    assert max(session.batches) == 2


def test_a_sample_that_the_model_refuses_alone_shows_nothing() -> None:
    def strict(x: Any) -> Any:
        if not x.any(axis=1).all():
            raise ValueError("an item of zeros")
        return x * 2

    assert tried(strict) == ""


def test_a_run_that_fails_only_together_is_a_veto() -> None:
    def narrow(x: Any) -> Any:
        if len(x) > 3:
            raise ValueError("at most three")
        return x

    assert "failed where each alone did not" in tried(narrow)


def test_a_veto_is_what_measuring_reports() -> None:
    session = FunctionSession((X,), (Y,), lambda feeds: {"y": np.cumsum(feeds["x"], 0)})
    found = measure(session, cores=1, cap=8, profile="throughput", budget_s=5.0)
    assert (found.max_batch, found.cap) == (1, 8)
    assert "trial run" in found.verdict


def test_nothing_is_tried_together_where_it_is_not_allowed() -> None:
    session = FunctionSession((X,), (Y,), lambda feeds: {"y": feeds["x"]})
    assert measure(session, cores=1, cap=1, profile="throughput").max_batch == 1
    assert set(session.batches) == {1}


@pytest.mark.parametrize(
    ("datatype", "one", "other", "equal"),
    [
        ("FP32", [1.0], [1.00005], True),
        ("FP32", [1.0], [1.001], False),
        ("FP32", [np.nan], [np.nan], True),
        ("FP32", [np.nan], [1.0], False),
        ("FP32", [np.inf], [-np.inf], False),
        ("FP32", [1000.0, 1.0], [1000.0, 1.05], True),
        ("INT64", [1], [2], False),
        ("BOOL", [True], [True], True),
    ],
)
def test_equal_means_within_the_stated_rounding(datatype: str, one: list[Any], other: list[Any], equal: bool) -> None:
    kind = {"FP32": np.float32, "INT64": np.int64, "BOOL": np.bool_}[datatype]
    assert same(datatype, np.array(one, kind), np.array(other, kind)) is equal


def test_bfloat16_is_compared_as_numbers_not_as_bits() -> None:
    one, near, far = (np.array([bits], np.uint16) for bits in (0x3F80, 0x3F81, 0x4000))
    assert same("BF16", one, near)
    assert not same("BF16", one, far)
