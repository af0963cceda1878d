"""Golden vectors: inputs and expected outputs published with a version, and how a variant measures up to them.

The vectors are one safetensors file (no pickle; https://github.com/huggingface/safetensors#format): case i has the
tensors `i/in/<input name>` and `i/out/<output name>`, i from 0. BYTES tensors cannot be golden.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from registry.contracts.enums import StrEnum
from registry.contracts.names import Name
from registry.contracts.tensors import MAX_TENSORS
from registry.contracts.wire import Wire

MAX_GOLDEN_CASES = 64
MAX_GOLDEN_BYTES = 64 << 20
"""Of the whole file: every device of a fleet downloads and runs it."""

_Distance = Annotated[float, Field(ge=0, le=1e9)]
_Share = Annotated[float, Field(ge=0, le=1)]


class Tolerance(Wire):
    """How far an output may be from the golden one: |got - want| <= absolute + relative * |want|, each element."""

    absolute: _Distance = 1e-4
    """Of any element."""
    relative: _Distance = 1e-3
    """Times |want|."""
    top1_agreement: _Share = 1.0
    """The least share of items whose largest element along the last axis is at the same place.
    Only of outputs with shape [N, classes], classes >= 2."""


class Special(StrEnum):
    """What a floating-point tensor may hold beside numbers."""

    NAN = "nan"
    """Not a number."""
    INFINITY = "inf"
    """Positive infinity."""
    NEGATIVE_INFINITY = "-inf"
    """Negative infinity."""


class Parity(Wire):
    """How one variant compared with the golden vectors."""

    cases: Annotated[int, Field(ge=0)]
    """So many were compared."""
    max_abs: float
    """Largest |got - want| over all cases and outputs."""
    max_rel: float
    """Largest |got - want| / max(|want|, 1e-6)."""
    top1_agreement: _Share | None = None
    """None: no output has the shape [N, classes]."""
    passed: bool
    """Everything within the manifest's tolerance, and no NaN where none was expected."""
    run_us: float | None = None
    """Microseconds of one run, median over the cases."""
    specials: Annotated[dict[str, tuple[Special, ...]], Field(max_length=MAX_TENSORS)] = Field(default_factory=dict)
    """NaN and infinities that the golden vectors themselves hold, by output: there they are part of a right answer."""
    why: Annotated[str, Field(max_length=512)] = ""
    """Why it did not pass: the first case and output that are off, or what the run failed with."""


class MeasuredParity(Wire):
    """A parity, and where it was measured."""

    parity: Parity
    """What was measured."""
    backend: str
    """Backend and provider, e.g. `onnxruntime/CPUExecutionProvider`."""
    reference: Name | None = None
    """The variant that the golden outputs came from; None: the publisher gave them."""


def parity_figures(parity: Parity) -> tuple[str, str, str, str]:
    """Largest absolute and relative error, agreement of the top class, time of a run."""
    top1 = "-" if parity.top1_agreement is None else f"{parity.top1_agreement:.2%}"
    run = "-" if parity.run_us is None else f"{parity.run_us:.0f} us"
    return f"{parity.max_abs:.3g}", f"{parity.max_rel:.3g}", top1, run
