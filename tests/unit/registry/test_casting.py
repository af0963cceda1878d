"""What a caller gives the hub's client is converted by value, or refused with the value and what would fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from registry.contracts.tensors import Datatype
from registry.hub.casting import cast
from registry.hub.source import HubError


@pytest.mark.parametrize(
    ("datatype", "value", "held"),
    [
        ("INT32", [1, 2], [1, 2]), ("INT32", [1.0, -2.0], [1, -2]), ("INT32", np.array([7], np.int64), [7]),
        ("INT32", [True, False], [1, 0]), ("UINT8", np.array([255], np.int16), [255]),
        ("INT8", [-128, 127], [-128, 127]),
        ("INT64", [2**63 - 1, -(2**63)], [2**63 - 1, -(2**63)]), ("UINT64", [2**64 - 1], [2**64 - 1]),
        ("INT64", [2**53 + 1, 1.0], [2**53 + 1, 1]), ("INT64", np.array([2**63 - 1], np.uint64), [2**63 - 1]),
        ("BOOL", [0, 1], [False, True]), ("BOOL", [1.0], [True]), ("FP32", [1, 2.5], [1, 2.5]),
        ("FP32", [np.nan, np.inf, -np.inf], [np.nan, np.inf, -np.inf]), ("FP32", [True], [1]),
        ("FP32", np.array([1e39], np.float64) / 10, [1e38]), ("FP16", np.array([65504.0]), [65504]), ("INT32", [], []),
        ("FP64", np.array([1], ">i4"), [1]), ("INT32", np.array([[1]], object), [[1]]),
    ],
)  # fmt: skip
def test_a_value_that_fits_is_taken_whatever_its_type(datatype: str, value: Any, held: Any) -> None:
    made = cast("x", value, Datatype(datatype))
    np.testing.assert_array_equal(made, np.array(held, made.dtype))


@pytest.mark.parametrize(
    ("datatype", "value", "says"),
    [
        ("INT32", [1764251640000], "1764251640000 at [0] does not fit INT32, which takes whole numbers from -2"),
        ("INT32", [[1, 2], [3, 2**31]], "2147483648 at [1, 1]"),
        ("INT32", [1.5], "1.5 at [0]"),
        ("INT32", [np.nan], "nan at [0]"),
        ("INT32", [np.inf], "inf at [0]"),
        ("UINT8", [-1], "-1 at [0] does not fit UINT8"),
        ("UINT8", np.array([256], np.int16), "256 at [0]"),
        ("UINT64", np.array([-1]), "-1 at [0]"),
        ("INT64", np.array([2**63], np.uint64), "9223372036854775808 at [0]"),
        ("INT64", np.array([2.0**63]), "at [0] does not fit INT64"),
        ("INT64", [2**70], "1180591620717411303424 at [0]"),
        ("INT64", [10**5000], "an integer of 16610 bits at [0]"),
        ("BOOL", [2], "2 at [0] does not fit BOOL"),
        ("BOOL", [0.5], "0.5 at [0]"),
        ("FP32", [1e300], "1e+300 at [0] does not fit FP32, which takes numbers from -3.4028235e38"),
        ("FP32", [10**400], "does not fit FP32"),
        ("FP16", [70000], "70000 at [0] does not fit FP16"),
        ("BF16", [3.4e38], "3.4e+38 at [0] does not fit BF16"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_named_with_what_would(datatype: str, value: Any, says: str) -> None:
    with pytest.raises(HubError) as refused:
        cast("x", value, Datatype(datatype))
    assert refused.value.code == "out_of_range"
    assert says in refused.value.message


@pytest.mark.parametrize(
    "value",
    [["1"], [b"1"], ["1", 2], [None], [1j], np.array(["2020-01-01"], "M8[D]"), np.array([1], "m8[s]"),
     np.ma.array([1, 2], mask=[False, True]), [{}], np.array([1j], object)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("datatype", ["INT64", "FP32", "BOOL"])
def test_what_is_no_number_is_refused(value: Any, datatype: str) -> None:
    with pytest.raises(HubError) as refused:
        cast("x", value, Datatype(datatype))
    assert refused.value.code == "wrong_datatype"


def test_rows_of_unlike_lengths_are_no_array() -> None:
    with pytest.raises(HubError) as refused:
        cast("x", [[1], [1, 2]], Datatype.FP32)
    assert refused.value.code == "wrong_shape"


def test_bf16_is_taken_as_a_number_or_as_its_raw_bits() -> None:
    assert cast("x", [1.0, np.nan, -np.inf], Datatype.BF16).tolist() == [0x3F80, 0x7FC0, 0xFF80]
    assert cast("x", np.array([0x3F80], np.uint16), Datatype.BF16).tolist() == [0x3F80]
    with pytest.raises(HubError):
        cast("x", [1], Datatype.BF16)
