"""What is looked at in the answers of a watched version: NaN and infinities in floating-point outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from agent.core.probation import Tally
from registry.contracts.tensors import FLOAT8, NUMPY_NAME, Datatype, numbers
from registry.inference.packets import Buffer

_FLOATS = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
_BF16_EXPONENT = np.uint16(0x7F80)
"""All exponent bits set: NaN or infinity (bfloat16 is the upper half of IEEE 754 binary32)."""


class Typed(Protocol):
    """A tensor's name and datatype of the Open Inference Protocol."""

    @property
    def name(self) -> str:
        """Of the output."""

    @property
    def datatype(self) -> str:
        """`FP32`, ..."""


def count_answer(tally: Tally, outputs: Sequence[Typed], data: Sequence[Buffer]) -> bool:
    """Counts one result: `data` holds the bytes of each of `outputs`. True: nothing in it is NaN or infinite that was
    not to be expected."""
    found = unexpected = 0
    for output, view in zip(outputs, data, strict=True):
        if not is_finite(str(output.datatype), view):
            kinds = kinds_in(str(output.datatype), view)
            found |= kinds
            unexpected |= kinds & ~tally.expected.get(output.name, 0)
    return tally.note(found, unexpected)


def is_finite(datatype: str, data: Buffer) -> bool:
    """No NaN and no infinity; True for what is not floating-point."""
    dtype = _FLOATS.get(datatype)
    if dtype is not None:
        return bool(np.isfinite(np.frombuffer(data, dtype)).all())
    if datatype == "BF16":
        return not bool(((np.frombuffer(data, "<u2") & _BF16_EXPONENT) == _BF16_EXPONENT).any())
    if datatype in FLOAT8:
        return bool(np.isfinite(numbers(Datatype(datatype), np.frombuffer(data, "|u1"))).all())
    return True


def kinds_in(datatype: str, data: Buffer) -> int:
    """Bits of `probation.KINDS`: NaN 1, infinity 2, minus infinity 4."""
    kind = Datatype(datatype)
    array = numbers(kind, np.frombuffer(data, NUMPY_NAME[kind]))
    return int(np.isnan(array).any()) | int(np.isposinf(array).any()) << 1 | int(np.isneginf(array).any()) << 2
