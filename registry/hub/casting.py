"""What a caller gives, as the array that the model takes: converted by value, never wrapped, cut or overflowed.

| to | takes |
|---|---|
| an integer type | whole numbers within its range, from whatever type |
| a floating-point type | numbers, rounded to nearest; a finite one that would become an infinity is refused |
| BOOL | booleans, 0 and 1 |
| BF16 | floats, rounded to nearest; UINT16 as its raw bits |

Text, dates, complex numbers, masked elements and rows of unlike lengths are no numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.contracts.tensors import NUMPY_NAME, Datatype
from registry.hub.source import HubError
from registry.inference.small_floats import to_bf16

Array = NDArray[Any]
_INTEGERS = frozenset(kind for kind in Datatype if "INT" in kind)
_FLOATS = frozenset({Datatype.FP16, Datatype.FP32, Datatype.FP64})
_NUMBER_KINDS = "biuf"


def cast(name: str, value: Any, datatype: Datatype) -> Array:
    """The value for that input, in C order.

    Raises:
        HubError: `wrong_datatype`, what came is no number; `out_of_range`, a number that the type cannot hold;
            `wrong_shape`, no array.
    """
    array = _numbers(name, value, datatype)
    wanted = np.dtype(NUMPY_NAME[datatype])
    if array.dtype == wanted:
        return np.ascontiguousarray(array)
    if array.dtype.kind not in _NUMBER_KINDS:
        raise HubError("wrong_datatype", f"input {name!r} is {datatype}, not {array.dtype}")
    if datatype in _INTEGERS:
        _require_whole(name, array, datatype)
        limits = np.iinfo(wanted)
        _require_within(name, array, datatype, int(limits.min), int(limits.max))
    elif datatype is Datatype.BOOL:
        _require_whole(name, array, datatype)
        _require_within(name, array, datatype, 0, 1)
    elif datatype is Datatype.BF16 and array.dtype.kind == "f":
        return _to_bf16(name, array)
    elif datatype not in _FLOATS:
        raise HubError("wrong_datatype", f"input {name!r} is {datatype}, not {array.dtype}")
    return _converted(name, array, datatype, wanted)


def _numbers(name: str, value: Any, datatype: Datatype) -> Array:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise HubError("wrong_datatype", f"input {name!r} has masked elements: fill them first")
    try:
        array = np.asarray(value)
        # Beside a float NumPy makes floats of a list's integers, the large ones rounded.
        mixed = array.dtype.kind == "f" and isinstance(value, (list, tuple)) and datatype in _INTEGERS
        plain = np.asarray(value, object) if mixed else array
    except (ValueError, OverflowError) as error:
        raise HubError("wrong_shape", f"input {name!r} cannot be made an array: {str(error)[:200]}") from None
    return _unboxed(name, plain, datatype) if plain.dtype == object else array


def _unboxed(name: str, boxed: Array, datatype: Datatype) -> Array:
    """Of Python's own numbers, which may be of any size."""
    items = boxed.ravel().tolist()
    odd = [
        type(item).__name__ for item in items if not isinstance(item, (int, float, np.bool_, np.integer, np.floating))
    ]
    if odd:
        raise HubError("wrong_datatype", f"input {name!r} is {datatype}, not {odd[0]}")
    if datatype in _INTEGERS and all(isinstance(item, int) or item == item // 1 for item in items):
        limits = np.iinfo(NUMPY_NAME[datatype])
        for place, item in enumerate(items):
            if not limits.min <= item <= limits.max:
                raise _out_of_range(name, item, np.unravel_index(place, boxed.shape), datatype)
        return np.array([int(item) for item in items], NUMPY_NAME[datatype]).reshape(boxed.shape)
    try:
        return np.array(items, np.float64).reshape(boxed.shape)
    except OverflowError:
        place = max(range(len(items)), key=lambda at: abs(items[at]))
        raise _out_of_range(name, items[place], np.unravel_index(place, boxed.shape), datatype) from None


def _require_whole(name: str, array: Array, datatype: Datatype) -> None:
    if array.dtype.kind != "f":
        return
    odd = ~np.isfinite(array) | (array != np.trunc(array))
    if odd.any():
        where = np.unravel_index(int(odd.argmax()), array.shape)
        raise _out_of_range(name, array[where], where, datatype)


def _require_within(name: str, array: Array, datatype: Datatype, least: int, most: int) -> None:
    if not array.size or array.dtype.kind == "b":
        return
    for place, beyond in ((array.argmin(), int(array.min()) < least), (array.argmax(), int(array.max()) > most)):
        if beyond:
            where = np.unravel_index(int(place), array.shape)
            raise _out_of_range(name, array[where], where, datatype)


def _converted(name: str, array: Array, datatype: Datatype, wanted: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):
        made = np.ascontiguousarray(array, wanted)
    if datatype in _FLOATS:
        _require_finite(name, array, np.isfinite(made), datatype)
    return made


def _to_bf16(name: str, array: Array) -> Array:
    """Raw bits."""
    with np.errstate(over="ignore"):
        wide = np.ascontiguousarray(array, "<f4")
    made = to_bf16(wide)
    _require_finite(name, array, (made & 0x7F80) != 0x7F80, Datatype.BF16)
    return made


def _require_finite(name: str, given: Array, held: Array, datatype: Datatype) -> None:
    lost = ~held & np.isfinite(given)
    if lost.any():
        where = np.unravel_index(int(lost.argmax()), given.shape)
        raise _out_of_range(name, given[where], where, datatype)


_LARGEST = {Datatype.FP16: "65504", Datatype.FP32: "3.4028235e38", Datatype.FP64: "1.7976931348623157e308"}


def _out_of_range(name: str, value: Any, where: tuple[Any, ...], datatype: Datatype) -> HubError:
    if datatype in _INTEGERS:
        limits = np.iinfo(NUMPY_NAME[datatype])
        takes = f"whole numbers from {limits.min} to {limits.max}"
    elif datatype is Datatype.BOOL:
        takes = "false and true, 0 and 1"
    else:
        largest = _LARGEST.get(datatype, "3.3895314e38")
        takes = f"numbers from -{largest} to {largest}"
    at = f" at {[int(index) for index in where]}" if where else ""
    large = isinstance(value, int) and value.bit_length() > 128
    shown = f"an integer of {value.bit_length()} bits" if large else str(value)
    return HubError("out_of_range", f"input {name!r}: {shown}{at} does not fit {datatype}, which takes {takes}")
