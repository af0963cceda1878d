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
