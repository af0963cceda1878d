"""NumPy arrays to the tensors of the protocol and back: nothing wraps, and no integer is rounded, in silence.

| datatype | given as | comes back as |
|---|---|---|
| BOOL, integers, FP16, FP32, FP64 | an array of that type | the same |
| BF16, 8-bit floats | an array of a type of `ml_dtypes`, `TypedTensor` | float32, the same values; `Answer.raw`: bits |
| BYTES | an array or list of `str` or `bytes` | an object array of `bytes`; `Answer.strings`: of `str` |

What comes back lies in the message that came: it is read-only; copy it to change it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...contracts.codes import InferenceCode, RequestCode
from ...contracts.tensors import FLOAT8, ITEM_BYTES, MAX_BYTES_ELEMENTS, MAX_RANK, NUMPY_NAME, RAW, Datatype, numbers
from ...inference.errors import quote
from ...inference.small_floats import to_bf16, to_float8
from .errors import BadRequestError

_LENGTH = struct.Struct("<I")
_PLAIN = {np.dtype(code): kind for kind, code in NUMPY_NAME.items() if kind not in RAW}
_BOOLS = {bool, np.bool_}
_FLOAT64, _INT64 = np.dtype("f8"), np.dtype("i8")
_FLOATS = FLOAT8 | {Datatype.FP16, Datatype.FP32, Datatype.FP64, Datatype.BF16}
_JSON_TYPES: dict[Datatype, set[type]] = {Datatype.BOOL: {bool}, Datatype.BYTES: {str}}
"""Of the items of a tensor in JSON; of all others numbers."""
_ML_DTYPES = {
    "bfloat16": Datatype.BF16,
    "float8_e4m3fn": Datatype.FP8E4M3FN,
    "float8_e4m3fnuz": Datatype.FP8E4M3FNUZ,
    "float8_e5m2": Datatype.FP8E5M2,
    "float8_e5m2fnuz": Datatype.FP8E5M2FNUZ,
    "float8_e8m0fnu": Datatype.FP8E8M0,
}
"""The types of the package `ml_dtypes`, by name: it need not be installed."""
_EXACT_BITS = {Datatype.FP64: 53, Datatype.FP32: 24, Datatype.FP16: 11, Datatype.BF16: 8}
"""Whole numbers of so many bits are values of the datatype."""


@dataclass(frozen=True)
class TypedTensor:
    """An input with a datatype of its own choice.

    `values` is anything that NumPy takes. Floating-point values are rounded to the nearest value of `datatype`, and
    refused where they are too large for it; integers are converted only where their value stays the same. With
    `raw=True` they are the bits themselves: uint16 for BF16, uint8 for the 8-bit floats.
    """

    values: Any
    datatype: str
    raw: bool = False


class WireTensor(NamedTuple):
    """A tensor as it is sent."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes


def is_loose(value: Any) -> bool:
    """Is its datatype only what NumPy makes of numbers (a list, float64, int64)? The model's own may be another."""
    if isinstance(value, np.ndarray):
        return value.dtype is _FLOAT64 or value.dtype is _INT64 or value.dtype in (_FLOAT64, _INT64)
    return not isinstance(value, (TypedTensor, np.generic))


def to_wire(name: str, value: Any, wanted: str = "") -> WireTensor:
    """The tensor of one input; `wanted` is the model's datatype, where that is known. Raises BadRequestError."""
    if isinstance(value, TypedTensor):
        wanted, raw, value = value.datatype, value.raw, value.values
        if raw:
            return _from_bits(name, value, wanted)
    array = value if isinstance(value, np.ndarray) else _array_of(name, value, wanted)
    if isinstance(value, np.ma.MaskedArray):
        _refuse_masked(name, value)
        array = value.data
    kind = _PLAIN.get(array.dtype)
    if kind is not None and (not wanted or wanted == kind) and array.ndim <= MAX_RANK:
        return WireTensor(kind, array.shape, array.tobytes())
    if array.ndim > MAX_RANK:
        raise _refusal(InferenceCode.WRONG_SHAPE, name, f"{array.ndim} dimensions, at most {MAX_RANK} can be sent")
    return _other(name, array, wanted)


def _other(name: str, array: NDArray[Any], wanted: str) -> WireTensor:
    """What needs a look: text, other byte orders, types that NumPy lacks, and what is to be converted."""
    kind = _PLAIN.get(array.dtype.newbyteorder("<")) or _ML_DTYPES.get(array.dtype.name)
    if array.dtype.kind in "OSU":
        if wanted not in ("", Datatype.BYTES):
            raise _refusal(InferenceCode.WRONG_DATATYPE, name, f"text was given, the model takes {wanted}")
        return WireTensor(Datatype.BYTES, array.shape, _pack(name, array))
    if kind is None:
        raise _refusal(
            InferenceCode.WRONG_DATATYPE, name, f"arrays of {array.dtype} cannot be sent: the protocol has no such type"
        )
    if wanted and wanted != kind:
        array = convert(name, array, kind, _datatype(name, wanted))
        return WireTensor(wanted, array.shape, array.tobytes())
    little = array if kind in RAW else array.astype(NUMPY_NAME[kind], copy=False)
    return WireTensor(kind, array.shape, little.tobytes())


def _datatype(name: str, datatype: str) -> Datatype:
    try:
        return Datatype(datatype)
    except ValueError:
        raise _refusal(
            InferenceCode.WRONG_DATATYPE, name, f"{quote(datatype)} is no datatype: {', '.join(Datatype)}"
        ) from None


def _array_of(name: str, value: Any, wanted: str) -> NDArray[Any]:
    """An array of lists and numbers. Text stays what it is: NumPy would cut NUL bytes and make text of numbers."""
    try:
        if isinstance(value, (list, tuple)):
            kinds = _types(name, value)
            if kinds & _BOOLS and kinds - _BOOLS:
                raise _refusal(InferenceCode.WRONG_DATATYPE, name, "truth values are mixed with others")
        array = np.asarray(value)
        if array.dtype.kind not in "SUf":
            return array
        items = np.asarray(value, dtype=object)
    except BadRequestError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _refusal(InferenceCode.WRONG_SHAPE, name, f"it does not make an array: {error}") from None
    return items if array.dtype.kind in "SU" else _whole(name, items, array, wanted)


def _types(name: str, value: Any) -> set[type]:
    """Of the items in lists of lists. Raises BadRequestError for masked ones."""
    if isinstance(value, np.ndarray):
        _refuse_masked(name, value)
        return {value.dtype.type}
    found = set(map(type, value))
    if any(issubclass(each, (list, tuple, np.ndarray)) for each in found):
        return set().union(
            *(_types(name, each) if isinstance(each, (list, tuple, np.ndarray)) else {type(each)} for each in value)
        )
    return found


def _refuse_masked(name: str, array: NDArray[Any]) -> None:
    """What lies behind a mask is no value."""
    if np.ma.is_masked(array):
        raise _refusal(InferenceCode.WRONG_DATATYPE, name, "elements are masked: fill them (`array.filled(value)`)")


def _whole(name: str, items: NDArray[Any], array: NDArray[Any], wanted: str) -> NDArray[Any]:
    """NumPy makes floating-point numbers of lists in which not all integers fit one type: never of large ones."""
    whole = [item for item in items.ravel().tolist() if isinstance(item, int)]
    if not whole or max(map(abs, whole)) <= 1 << 53:
        return array
    if len(whole) == items.size and wanted in ("INT64", "UINT64"):
        bounds = np.iinfo(NUMPY_NAME[Datatype(wanted)])
        if bounds.min <= min(whole) and max(whole) <= bounds.max:
            return items.astype(NUMPY_NAME[Datatype(wanted)])
    raise _refusal(RequestCode.OUT_OF_RANGE, name, f"{max(whole, key=abs)} among these numbers would be rounded")


def convert(name: str, array: NDArray[Any], have: str, want: Datatype) -> NDArray[Any]:
    """`array` of datatype `have` as one of `want`; BF16 and 8-bit floats are bits in both. Raises BadRequestError.

    Floating-point values are rounded to nearest. Everything else keeps its value, or is refused.
    """
    held = Datatype(have)
    if want in (Datatype.BOOL, Datatype.BYTES) or held is Datatype.BOOL or (held in _FLOATS and want not in _FLOATS):
        raise _refusal(InferenceCode.WRONG_DATATYPE, name, f"{held} was given, the model takes {want}")
    if held in RAW:
        array = numbers(held, array.view(NUMPY_NAME[held]))
    if want in _FLOATS:
        return _to_float(name, array, want, whole=held not in _FLOATS)
    bounds = np.iinfo(NUMPY_NAME[want])
    if array.size and not (bounds.min <= int(array.min()) and int(array.max()) <= bounds.max):
        worst = int(array.min()) if int(array.min()) < bounds.min else int(array.max())
        raise _refusal(RequestCode.OUT_OF_RANGE, name, f"{worst} does not fit {want}")
    return array.astype(NUMPY_NAME[want])


def _to_float(name: str, array: NDArray[Any], want: Datatype, *, whole: bool) -> NDArray[Any]:
    if whole and array.size:
        largest = max(abs(int(array.min())), abs(int(array.max())))
        if largest >> _EXACT_BITS.get(want, 53) and largest != 1 << _EXACT_BITS.get(want, 53):
            raise _refusal(RequestCode.OUT_OF_RANGE, name, f"the whole number {largest} may be rounded as {want}")
    with np.errstate(over="ignore", invalid="ignore"):
        wide = array.astype("<f8")
        if want is Datatype.BF16:
            made: NDArray[Any] = _bf16_of(wide)
        elif want in FLOAT8:
            made = to_float8(want, wide)
        else:
            made = wide.astype(NUMPY_NAME[want])
    values = numbers(want, made)
    lost = (np.isfinite(wide) != np.isfinite(values)) | (np.isnan(wide) != np.isnan(values))
    if whole:
        lost |= wide != values
    if lost.any():
        raise _refusal(RequestCode.OUT_OF_RANGE, name, f"{wide[lost].ravel()[0]:g} does not fit {want}")
    return made


def _bf16_of(wide: NDArray[Any]) -> NDArray[Any]:
    """FP64 to BF16, rounded once to nearest. The step over FP32 rounds to odd, which the second rounding does not see:
    Boldo and Melquiond, "When double rounding is odd" (2005)."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = np.asarray(wide.astype("<f4"))
    bits = narrow.view("<u4")
    back = narrow.astype("<f8")
    inexact = (back != wide) & ~np.isnan(wide)
    odd = (bits - (np.abs(back) > np.abs(wide)).astype("<u4")) | 1
    return to_bf16(np.where(inexact, odd, bits).astype("<u4").view("<f4"))


def _from_bits(name: str, values: Any, datatype: str) -> WireTensor:
    kind = _datatype(name, datatype)
    _refuse_masked(name, values)
    array = np.asarray(values)
    if kind not in RAW or array.dtype != np.dtype(NUMPY_NAME[kind]):
        wanted = np.dtype(NUMPY_NAME[kind]).name if kind in RAW else "BF16 or an 8-bit float"
        raise _refusal(InferenceCode.WRONG_DATATYPE, name, f"raw bits of {kind} are {wanted}, not {array.dtype}")
    return WireTensor(kind, array.shape, array.tobytes())


def _pack(name: str, array: NDArray[Any]) -> bytes:
    """BYTES: each element a u32 length and its bytes; text as UTF-8."""
    if array.size > MAX_BYTES_ELEMENTS:
        raise _refusal(
            InferenceCode.TOO_LARGE, name, f"{array.size} elements of BYTES, at most {MAX_BYTES_ELEMENTS} can be sent"
        )
    pieces: list[bytes] = []
    for item in array.ravel().tolist():
        try:
            data = item.encode() if isinstance(item, str) else item
        except UnicodeEncodeError:
            raise _refusal(InferenceCode.WRONG_DATATYPE, name, f"{quote(item)} is no text that UTF-8 has") from None
        if not isinstance(data, bytes):
            raise _refusal(
                InferenceCode.WRONG_DATATYPE, name, f"expected str or bytes in an array of objects, got {quote(item)}"
            )
        pieces += (_LENGTH.pack(len(data)), data)
    return b"".join(pieces)


def _refusal(code: str, name: str, why: str) -> BadRequestError:
    return BadRequestError(code, f"input {quote(name)}: {why}")


def bits_of(datatype: Datatype, shape: tuple[int, ...], data: memoryview) -> NDArray[Any]:
    """The tensor as it lies in `data`, read-only. Raises ValueError where size and shape do not agree."""
    if datatype is Datatype.BYTES:
        return _unpack(shape, data)
    if prod(shape) * ITEM_BYTES[datatype] != len(data):
        raise ValueError(f"{datatype} of shape {list(shape)} with {len(data)} bytes")
    return np.frombuffer(data, NUMPY_NAME[datatype]).reshape(shape)


def values_of(datatype: Datatype, bits: NDArray[Any]) -> NDArray[Any]:
    """BF16 and 8-bit floats as float32, which has all their values; all others as they are."""
    return numbers(datatype, bits).astype(np.float32) if datatype in RAW else bits


def from_numbers(datatype: Datatype, shape: tuple[int, ...], data: Any) -> NDArray[Any]:
    """The bits of a tensor whose JSON `data` these are. Raises ValueError."""
    kinds = _JSON_TYPES.get(datatype, {int, float} if datatype in _FLOATS else {int})
    if not isinstance(data, list) or len(data) != prod(shape) or not kinds.issuperset(map(type, data)):
        raise ValueError(f"{datatype} of shape {list(shape)} with other data")
    if datatype is Datatype.BYTES:
        flat = np.empty(len(data), dtype=object)
        flat[:] = [item.encode() for item in data]
        return flat.reshape(shape)
    if datatype not in _FLOATS:
        whole: NDArray[Any] = np.array(data, dtype=NUMPY_NAME[datatype]).reshape(shape)
        return whole
    wide = np.array(data, dtype="<f8").reshape(shape)
    with np.errstate(over="ignore", invalid="ignore"):
        made = (
            _bf16_of(wide) if datatype is Datatype.BF16 else to_float8(datatype, wide) if datatype in FLOAT8
            else wide.astype(NUMPY_NAME[datatype])
        )  # fmt: skip
    if (np.isfinite(wide) != np.isfinite(numbers(datatype, made))).any():
        raise ValueError(f"{datatype} with a number that is too large for it")
    return made


def _unpack(shape: tuple[int, ...], data: memoryview) -> NDArray[Any]:
    count = prod(shape)
    if count * _LENGTH.size > len(data):
        raise ValueError(f"BYTES of shape {list(shape)} with {len(data)} bytes")
    items = np.empty(count, dtype=object)
    at = 0
    for index in range(count):
        if at + _LENGTH.size > len(data):
            raise ValueError("BYTES end before their last element")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + length
        if at > len(data):
            raise ValueError("an element of BYTES is longer than what came")
        items[index] = bytes(data[at - length : at])
    if at != len(data):
        raise ValueError("more bytes than BYTES of that shape have")
    return items.reshape(shape)


def json_data(tensor: WireTensor) -> Any:
    """The tensor's values as JSON has them, flat. Raises UnicodeDecodeError for BYTES that are not UTF-8."""
    kind = Datatype(tensor.datatype)
    bits = bits_of(kind, tensor.shape, memoryview(tensor.data))
    if kind is Datatype.BYTES:
        return [item.decode() for item in bits.ravel().tolist()]
    return values_of(kind, bits).ravel().tolist()


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Of a list of whole numbers, as JSON brings it; None where it is none."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > MAX_RANK:
        return None
    if not all(type(size) is int and size >= 0 for size in value):
        return None
    return tuple(value)
