"""Arrays to tensors: values stay what they are, or the input is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from registry.client.devices.arrays import TypedTensor, bits_of, from_numbers, json_data, to_wire, values_of
from registry.client.devices.errors import BadRequestError
from registry.contracts.tensors import NUMPY_NAME, RAW, Datatype

PLAIN = [kind for kind in NUMPY_NAME if kind not in RAW]


def back(value: Any, wanted: str = "") -> np.ndarray[Any, Any]:
    tensor = to_wire("x", value, wanted)
    kind = Datatype(tensor.datatype)
    return values_of(kind, bits_of(kind, tensor.shape, memoryview(tensor.data)))


@pytest.mark.parametrize("kind", PLAIN)
def test_an_array_of_a_plain_type_goes_and_comes_back(kind: Datatype) -> None:
    array = np.arange(6).reshape(2, 3).astype(NUMPY_NAME[kind])
    assert to_wire("x", array).datatype == kind
    np.testing.assert_array_equal(back(array), array)
    np.testing.assert_array_equal(back(array.T), array.T)
    np.testing.assert_array_equal(back(array.astype(array.dtype.newbyteorder(">"))), array)


@pytest.mark.parametrize("kind", PLAIN)
def test_the_values_of_json_are_those_of_the_tensor(kind: Datatype) -> None:
    tensor = to_wire("x", np.arange(6).reshape(2, 3).astype(NUMPY_NAME[kind]))
    found = from_numbers(kind, tensor.shape, json_data(tensor))
    np.testing.assert_array_equal(found, bits_of(kind, tensor.shape, memoryview(tensor.data)))


@pytest.mark.parametrize("value", [["a", "ü", ""], np.array(["a", "ü", ""]), [b"a", "ü".encode(), b""],
                                   np.array([b"a", "ü", b""], dtype=object)])  # fmt: skip
def test_text_and_bytes_are_bytes(value: Any) -> None:
    tensor = to_wire("x", value)
    assert (tensor.datatype, tensor.shape) == ("BYTES", (3,))
    assert back(value).tolist() == [b"a", "ü".encode(), b""]


def test_bytes_of_a_list_keep_their_nul_bytes() -> None:
    assert back([b"a\0", b"\0"]).tolist() == [b"a\0", b"\0"]


@pytest.mark.parametrize("value", [["a", 1], np.array([None, "a"], dtype=object), [[1, 2], [3]], 1 << 70, 1j, object()])
def test_what_has_no_datatype_is_refused(value: Any) -> None:
    with pytest.raises(BadRequestError):
        to_wire("x", value)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (np.array([1.5, 0.1]), "FP32"),
        (np.array([1, 2, 255]), "UINT8"),
        (np.array([1, 1 << 24]), "FP32"),
        (np.array([1.0, np.nan, np.inf]), "FP16"),
        ([1, 2], "FP64"),
        (np.array([1.0, -2.5], np.float32), "BF16"),
        (np.array([1.0, np.nan], np.float32), "FP8E4M3FN"),
    ],
)
def test_a_value_that_the_wanted_datatype_can_hold_is_converted(value: Any, wanted: str) -> None:
    tensor = to_wire("x", value, wanted)
    assert tensor.datatype == wanted
    np.testing.assert_allclose(back(value, wanted).astype("f8"), np.asarray(value, "f8"), rtol=1e-7)


@pytest.mark.parametrize(
    ("value", "wanted", "code"),
    [
        (np.array([256]), "UINT8", "out_of_range"),
        (np.array([-1]), "UINT64", "out_of_range"),
        (np.array([(1 << 24) + 1]), "FP32", "out_of_range"),
        (np.array([2049]), "FP16", "out_of_range"),
        (np.array([1e39]), "FP32", "out_of_range"),
        (np.array([70000.0]), "FP16", "out_of_range"),
        (np.array([np.inf], np.float32), "FP8E4M3FN", "out_of_range"),
        (np.array([1.0]), "INT64", "wrong_datatype"),
        (np.array([True]), "FP32", "wrong_datatype"),
        (np.array([1]), "BOOL", "wrong_datatype"),
        (np.array(["1"]), "INT64", "wrong_datatype"),
        (np.array([1]), "BYTES", "wrong_datatype"),
        (np.array([1]), "INT128", "wrong_datatype"),
    ],
)
def test_a_value_that_would_change_is_refused(value: Any, wanted: str, code: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        to_wire("x", value, wanted)
    assert refused.value.code == code


def test_whole_numbers_of_a_list_are_never_rounded_by_numpy() -> None:
    with pytest.raises(BadRequestError):
        to_wire("x", [0.5, (1 << 53) + 1])


@pytest.mark.parametrize("kind", sorted(RAW))
def test_a_tensor_names_its_datatype_or_gives_the_bits(kind: Datatype) -> None:
    np.testing.assert_array_equal(back(TypedTensor([1.0, 2.0], kind)), np.array([1, 2], np.float32))
    bits = np.frombuffer(to_wire("x", TypedTensor([1.0, 2.0], kind)).data, NUMPY_NAME[kind])
    np.testing.assert_array_equal(back(TypedTensor(bits, kind, raw=True)), np.array([1, 2], np.float32))
    with pytest.raises(BadRequestError):
        to_wire("x", TypedTensor(bits.astype("u4"), kind, raw=True))


@pytest.mark.parametrize(
    ("kind", "shape", "data"),
    [
        (Datatype.FP32, (2,), b"1234"),
        (Datatype.BYTES, (1,), b"\x05\0\0\0abc"),
        (Datatype.BYTES, (1 << 40,), b"\0\0\0\0"),
        (Datatype.BYTES, (1,), b"\0\0\0\0x"),
        (Datatype.BYTES, (2,), b"\x01\0\0\0abcd"),
    ],
)
def test_bytes_that_do_not_make_the_shape_are_no_tensor(kind: Datatype, shape: tuple[int, ...], data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        bits_of(kind, shape, memoryview(data))


@pytest.mark.parametrize(
    ("kind", "shape", "data"),
    [
        (Datatype.INT32, (1,), [1.5]),
        (Datatype.INT32, (2,), [1]),
        (Datatype.BYTES, (1,), [1]),
        (Datatype.FP32, (1,), 1.0),
    ],
)
def test_other_data_in_json_is_no_tensor(kind: Datatype, shape: tuple[int, ...], data: Any) -> None:
    with pytest.raises(ValueError, match="other data"):
        from_numbers(kind, shape, data)


@pytest.mark.parametrize(
    "value",
    [
        np.ma.array([1.0, 2.0], mask=[0, 1], dtype="f4"), np.ma.array([1, 2], mask=[0, 1]), [np.ma.masked, 1.0],
        [[np.ma.array([1.0, 2.0], mask=[0, 1])]], TypedTensor(np.ma.array([1.0, 2.0], mask=[0, 1]), "FP32"),
        TypedTensor(np.ma.array([1, 2], mask=[0, 1], dtype="u2"), "BF16", raw=True),
    ],
)  # fmt: skip
def test_masked_elements_are_refused(value: Any) -> None:
    with pytest.raises(BadRequestError, match="masked"):
        to_wire("x", value)


def test_an_array_that_could_be_masked_and_is_not_is_sent() -> None:
    assert back(np.ma.array([1.0, 2.0], dtype="f4")).tolist() == [1, 2]


@pytest.mark.parametrize(
    "value", [[True, 2], [[1.5], [False]], [np.bool_(True), 2.0], [np.array([True]), np.array([2])]]
)
def test_truth_values_among_numbers_are_refused(value: Any) -> None:
    with pytest.raises(BadRequestError, match="mixed"):
        to_wire("x", value)


@pytest.mark.parametrize("value", [["\ud800"], np.array(["\ud800"])])
def test_text_that_utf_8_does_not_have_is_refused(value: Any) -> None:
    with pytest.raises(BadRequestError, match="UTF-8"):
        to_wire("x", value)


@pytest.mark.parametrize("sign", [1, -1])
def test_fp64_is_rounded_to_bf16_once(sign: int) -> None:
    # A little over the middle of 1 and the next value, 1 + 2**-7: over FP32 it would become the middle, and 1.
    value = sign * (1 + 2.0**-8 + 2.0**-40)
    assert back(TypedTensor([value], "BF16")).tolist() == [sign * (1 + 2.0**-7)]
    assert values_of(Datatype.BF16, from_numbers(Datatype.BF16, (1,), [value])).tolist() == [sign * (1 + 2.0**-7)]
    below = sign * (1 + 3 * 2.0**-8 - 2.0**-40)
    assert back(TypedTensor([below], "BF16")).tolist() == [sign * (1 + 2.0**-7)]
    special = [sign * np.inf, np.nan, sign * 2.0**-133, sign * 0.0, sign * 3.0]
    np.testing.assert_array_equal(back(TypedTensor(special, "BF16")), special)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Datatype.BOOL, [2]), (Datatype.BOOL, [1]), (Datatype.INT64, [True]), (Datatype.INT8, [300]),
        (Datatype.UINT8, [-1]), (Datatype.FP32, [True]), (Datatype.FP32, [1e300]), (Datatype.FP16, [70000]),
        (Datatype.BF16, [1e300]), (Datatype.FP8E4M3FN, [1e6]), (Datatype.BYTES, [1]), (Datatype.FP64, [10**400]),
    ],
)  # fmt: skip
def test_json_that_the_datatype_does_not_hold_is_no_answer(kind: Datatype, data: list[Any]) -> None:
    with pytest.raises((ValueError, OverflowError)):
        from_numbers(kind, (1,), data)


def test_infinities_and_nan_in_json_are_values() -> None:
    np.testing.assert_array_equal(from_numbers(Datatype.FP32, (2,), [np.inf, np.nan]), np.array([np.inf, np.nan], "f4"))
