"""Numbers to the formats that NumPy lacks: BF16 and the 8-bit floats, held as their raw bits.

The way back is `registry.contracts.tensors.numbers`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contracts.tensors import Datatype, numbers


def to_bf16(array: NDArray[Any]) -> NDArray[Any]:
    """FP32 to the upper 16 bits, rounded to nearest, ties to even. An infinity stays one, and so does a NaN."""
    bits = array.view("<u4").astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded).astype("<u2")


def to_float8(kind: Datatype, array: NDArray[Any]) -> NDArray[Any]:
    """FP64 to the bytes of an 8-bit float, rounded to nearest, ties to even. What is out of range becomes an infinity
    where the kind has one, else NaN."""
    sizes, over, none = _float8(kind)
    size = np.abs(array)
    signed = kind is not Datatype.FP8E8M0
    above = np.searchsorted(sizes, size).clip(1, len(sizes) - 1)
    below = above - 1
    up, down = sizes[above] - size, size - sizes[below]
    code = np.where((up < down) | ((up == down) & (above % 2 == 0)), above, below)
    limit = sizes[-1] + (sizes[-1] - sizes[-2]) / 2
    code = np.where((size > limit) | ((size == limit) & (len(sizes) % 2 == 0)), over, code)
    if signed:
        negative = np.signbit(array) & (code <= 0x7F)
        if none == 0x80:
            negative &= code != 0  # these have no negative zero: its byte is NaN
        code = code | (negative * 0x80)
    else:
        code = np.where(array <= 0, none, code)
    return np.asarray(np.where(np.isnan(array), none, code), "|u1")


@cache
def _float8(kind: Datatype) -> tuple[NDArray[Any], int, int]:
    """Of one kind: the sizes that bytes without a sign stand for, in order, what is over them, and NaN."""
    values = numbers(kind, np.arange(256))
    finite = values[: 256 if kind is Datatype.FP8E8M0 else 128]
    finite = finite[np.isfinite(finite)]
    none = int(np.flatnonzero(np.isnan(values))[0])
    infinite = np.flatnonzero(np.isposinf(values))
    return finite, int(infinite[0]) if infinite.size else none, none
