"""Compares outputs with golden ones: the same for publisher, agent and registry.

Pure, and without an import of NumPy: it takes NumPy arrays and uses only their operators and methods, so that the
contracts stay light and both sides still judge by the same lines.

All is compared in double precision. A NaN must stand where one was expected and nowhere else, an infinity likewise;
magnitudes over 1e150 count as 1e150. Integers and booleans are compared by the same tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from registry.contracts.catalogue.manifest import Parity, Special, Tolerance
from registry.contracts.tensors import Datatype

Array: TypeAlias = Any
"""A `numpy.ndarray`."""
_SMALLEST = 1e-6
"""Of |want|, where a relative error is taken: below it, it would say nothing."""
_LARGEST = 1e150
_INFINITY = float("inf")


class Comparison:
    """Adds up case by case. Not for two threads at once."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self._max_abs = 0.0
        self._max_rel = 0.0
        self._items = 0
        self._agreeing = 0
        self._specials: dict[str, set[Special]] = {}
        self._why = ""

    def refuse(self, why: str) -> None:
        """The variant did not answer, or not in the right form: it cannot pass. The first reason is kept."""
        self._why = self._why or why[:512]

    def add(self, case: int, outputs: Mapping[str, tuple[Datatype, Array, Array]]) -> None:
        """One case: (datatype, got, want) of each output that is compared; `got` of any shape."""
        for name, (datatype, got, want) in outputs.items():
            where = f"case {case}, output {name!r}"
            if found := _specials(numbers(datatype, want)):
                self._specials.setdefault(name, set()).update(found)
            if got.shape != want.shape:
                self.refuse(f"{where} came as {list(got.shape)} instead of {list(want.shape)}")
                continue
            self._compare(where, numbers(datatype, got), numbers(datatype, want))

    def _compare(self, where: str, got: Array, want: Array) -> None:
        if want.ndim == 2 and want.shape[1] >= 2 and want.shape[0]:
            self._items += int(want.shape[0])
            self._agreeing += int((got.argmax(-1) == want.argmax(-1)).sum())
        got, want = got.reshape(-1), want.reshape(-1)
        finite = (abs(got) < _INFINITY) & (abs(want) < _INFINITY)
        alike = (got == want) | (_is_nan(got) & _is_nan(want))
        if not (finite | alike).all():
            self.refuse(f"{where} has a NaN or an infinity where none was expected, or none where one was")
        got, want = got[finite].clip(-_LARGEST, _LARGEST), want[finite].clip(-_LARGEST, _LARGEST)
        if not got.size:
            return
        difference, size = abs(got - want), abs(want)
        self._max_abs = max(self._max_abs, float(difference.max()))
        self._max_rel = max(self._max_rel, float((difference / size.clip(_SMALLEST, None)).max()))
        if not (difference <= self._tolerance.absolute + self._tolerance.relative * size).all():
            self.refuse(f"{where} is up to {float(difference.max()):.3g} from the golden one, over the tolerance")

    def parity(self, cases: int, runs_us: Sequence[float]) -> Parity:
        """What came out of `cases` cases, with the times of their runs in microseconds."""
        top1 = self._agreeing / self._items if self._items else None
        if top1 is not None and top1 < self._tolerance.top1_agreement:
            self.refuse(f"the top class agrees for {top1:.4g} of the items, at least {self._tolerance.top1_agreement}")
        middle = sorted(runs_us)[len(runs_us) // 2] if runs_us else None
        return Parity(
            cases=cases,
            max_abs=self._max_abs,
            max_rel=self._max_rel,
            top1_agreement=top1,
            passed=not self._why,
            run_us=None if middle is None else round(middle, 1),
            specials={name: tuple(sorted(found)) for name, found in self._specials.items()},
            why=self._why,
        )


def _specials(array: Array) -> set[Special]:
    held = {
        Special.NAN: _is_nan(array),
        Special.INFINITY: array == _INFINITY,
        Special.NEGATIVE_INFINITY: array == -_INFINITY,
    }
    return {special for special, where in held.items() if where.any()}


def _is_nan(array: Array) -> Array:
    return ~(abs(array) <= _INFINITY)


def numbers(datatype: Datatype, array: Array) -> Array:
    """The array in double precision. BF16 comes as its 16 raw bits, which are the upper half of a float; 8-bit floats
    as their bytes."""
    if datatype is Datatype.BF16:
        return (array.astype("<u4") << 16).view("<f4").astype("<f8")
    if datatype in _FLOAT8:
        return _float8(_FLOAT8[datatype], array.astype("<i4"))
    return array.astype("<f8")


class _Float8(NamedTuple):
    """An 8-bit float: a sign, an exponent, a mantissa. Sources: see `Datatype`."""

    mantissa: int
    """Bits."""
    bias: int
    special: Mapping[int, float]
    """By byte: NaN and infinities."""


_NAN = float("nan")
_FLOAT8 = {
    Datatype.FP8E4M3FN: _Float8(3, 7, dict.fromkeys((0x7F, 0xFF), _NAN)),
    Datatype.FP8E4M3FNUZ: _Float8(3, 8, {0x80: _NAN}),
    Datatype.FP8E5M2: _Float8(
        2, 15, {0x7C: _INFINITY, 0xFC: -_INFINITY, **dict.fromkeys((0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF), _NAN)}
    ),
    Datatype.FP8E5M2FNUZ: _Float8(2, 16, {0x80: _NAN}),
    Datatype.FP8E8M0: _Float8(0, 127, {0xFF: _NAN}),
}


def _float8(form: _Float8, array: Array) -> Array:
    """E8M0 has neither sign nor mantissa nor zero: it is a power of two."""
    bits = array.reshape(-1)
    signed = form.mantissa > 0
    rest = bits & 0x7F if signed else bits
    exponent = rest >> form.mantissa
    fraction = (rest & ((1 << form.mantissa) - 1)).astype("<f8") / (1 << form.mantissa)
    values = (1 + fraction) * 2.0 ** (exponent - form.bias).astype("<f8")
    if signed:
        subnormal = exponent == 0
        values[subnormal] = fraction[subnormal] * 2.0 ** (1 - form.bias)
        values = values * (1 - 2.0 * (bits >> 7))
    for byte, value in form.special.items():
        values[bits == byte] = value
    return values.reshape(array.shape)
