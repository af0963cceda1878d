"""What is looked at in the answers of a version on probation: floating-point outputs with a NaN or an infinity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from agent.core.probation import Tally
from agent.dataplane.plan import Buffer
from registry.contracts.parity import numbers
from registry.contracts.tensors import FLOAT8, Datatype

_FLOATS = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
_BF16_EXPONENT = np.uint16(0x7F80)
"""All exponent bits set: NaN or infinity (bfloat16 is the upper half of IEEE 754 binary32)."""


class Typed(Protocol):
    """Anything with a datatype of the Open Inference Protocol."""

    @property
    def datatype(self) -> str:
        """`FP32`, ..."""


def count_answer(tally: Tally, outputs: Sequence[Typed], data: Sequence[Buffer]) -> bool:
    """Counts one result: `data` holds the bytes of each of `outputs`. True: nothing in it is NaN or infinite."""
    tally.answered += 1
    finite = all(is_finite(str(output.datatype), view) for output, view in zip(outputs, data, strict=True))
    tally.not_finite += not finite
    return finite


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
