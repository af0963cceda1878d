"""Tensor data as JSON arrays, to bytes and back.

In: flat or nested in the tensor's own shape. Numbers must fit the datatype: no NaN, no infinity, no rounding of
integers. FP16 and BF16 are taken and given as numbers too, rounded to nearest. BYTES are strings, as UTF-8.
Out: flat, row-major; NaN and infinities become null, since JSON has none (ask for binary to keep them).
The number of commas is compared with the shape before anything is built, so an array is never larger than its tensor.
"""

from __future__ import annotations

import struct
from functools import cache
from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.dataplane.plan import Buffer, RequestError, quote
from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import NUMPY_NAME, Datatype

_FLOATS = frozenset({Datatype.FP16, Datatype.FP32, Datatype.FP64, Datatype.BF16})
_LENGTH = struct.Struct("<I")
MAX_DATA_NESTING_BYTES = 1 << 16
"""An empty tensor's `data` is brackets only, and no longer than this."""


def data_from_json(raw: bytes | memoryview, datatype: str, shape: tuple[int, ...], name: str) -> bytes:
    """The tensor's bytes from the text of its `data` array. Raises RequestError."""
    elements = prod(shape)
    text = bytes(raw)
    kind = Datatype(datatype)
    if elements == 0:
        if len(text) > MAX_DATA_NESTING_BYTES or text.strip(b"[], \t\r\n") or not text.startswith(b"["):
            raise _mismatch(name, 0, "something else")
        return b""
    if kind is not Datatype.BYTES and text.count(b",") + 1 != elements:
        raise _mismatch(name, elements, f"{text.count(b',') + 1}")
    depth = _depth(text)
    if depth not in (1, len(shape)):
        raise RequestError(
            InferenceCode.WRONG_SHAPE,
            f"input {quote(name)}: data must be flat or nested {len(shape)} deep, got nesting {depth}",
        )
    values = _decode(text, kind, depth, name)
    if kind is Datatype.BYTES:
        return _pack_strings(_flatten(values, shape if depth > 1 else (elements,), name))
    return _pack_numbers(values, kind, shape if depth > 1 else (elements,), name)


def _depth(text: bytes) -> int:
    """Leading brackets: how deep the array is nested, if it is regular."""
    opening = text[: len(text) - len(text.lstrip(b"[ \t\r\n"))]
    return opening.count(b"[")


def _decode(text: bytes, kind: Datatype, depth: int, name: str) -> Any:
    try:
        return _decoder(kind, depth).decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestError(
            InferenceCode.WRONG_DATATYPE, f"input {quote(name)}: expected {kind} values in data: {quote(str(error))}"
        ) from None


@cache
def _decoder(kind: Datatype, depth: int) -> msgspec.json.Decoder[Any]:
    """At most datatypes x MAX_RANK of them."""
    element: Any = int
    if kind in _FLOATS:
        element = float
    elif kind is Datatype.BOOL:
        element = bool
    elif kind is Datatype.BYTES:
        element = str
    for _ in range(depth):
        element = list[element]
    return msgspec.json.Decoder(element)


def _flatten(values: list[Any], shape: tuple[int, ...], name: str) -> list[str]:
    """Row-major; each list must be as long as its dimension says."""
    if len(values) != shape[0]:
        raise _mismatch(name, prod(shape), f"{len(values)} in the outermost list")
    for dimension in shape[1:]:
        if any(len(inner) != dimension for inner in values):
            raise _mismatch(name, prod(shape), "an array of another shape")
        values = [item for inner in values for item in inner]
    return values


def _pack_strings(values: list[str]) -> bytes:
    pieces: list[bytes] = []
    for value in values:
        encoded = value.encode()
        pieces += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(pieces)


def _pack_numbers(values: Any, kind: Datatype, shape: tuple[int, ...], name: str) -> bytes:
    held = "<f4" if kind is Datatype.BF16 else NUMPY_NAME[kind]
    try:
        with np.errstate(over="ignore"):
            array: NDArray[Any] = np.array(values, dtype=held)
    except (OverflowError, ValueError) as error:
        raise RequestError(
            InferenceCode.WRONG_DATATYPE, f"input {quote(name)}: data does not make {kind}: {quote(str(error))}"
        ) from None
    if array.shape != shape:
        raise _mismatch(name, prod(shape), f"shape {list(array.shape)}")
    if kind is Datatype.BF16:
        array = to_bf16(array)
        overflow = bool(((array & 0x7F80) == 0x7F80).any())
    else:
        overflow = kind in _FLOATS and not np.isfinite(array).all()
    if overflow:
        raise RequestError(InferenceCode.WRONG_DATATYPE, f"input {quote(name)}: a value is too large for {kind}")
    return array.tobytes()


def to_bf16(array: NDArray[Any]) -> NDArray[Any]:
    """FP32 to the upper 16 bits, rounded to nearest, ties to even. An infinity stays one."""
    bits = array.view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def data_to_json(data: Buffer, datatype: str, name: str) -> bytes:
    """The text of a flat `data` array. Raises RequestError when BYTES are not UTF-8."""
    if datatype == Datatype.BYTES:
        return _strings_to_json(data, name)
    if datatype == Datatype.BF16:
        wide = np.frombuffer(data, "<u2").astype("<u4") << 16
        return msgspec.json.encode(wide.view("<f4").tolist())
    return msgspec.json.encode(np.frombuffer(data, NUMPY_NAME[Datatype(datatype)]).tolist())


def _strings_to_json(data: Buffer, name: str) -> bytes:
    view = memoryview(data)
    values: list[str] = []
    at = 0
    try:
        while at < len(view):
            (length,) = _LENGTH.unpack_from(view, at)
            values.append(str(view[at + 4 : at + 4 + length], "utf-8"))
            at += 4 + length
    except (struct.error, UnicodeDecodeError) as error:
        raise RequestError(
            InferenceCode.RUN_FAILED,
            f"output {quote(name)} cannot stand in JSON ({quote(str(error))}): ask for it with binary_data",
        ) from None
    return msgspec.json.encode(values)


def _mismatch(name: str, expected: int, got: str) -> RequestError:
    return RequestError(
        InferenceCode.SIZE_MISMATCH, f"input {quote(name)}: expected {expected} elements in data, got {got}"
    )
