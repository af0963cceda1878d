"""Compares outputs with golden ones: the same for publisher, agent and registry.

Pure, and without an import of NumPy: it takes NumPy arrays and uses only their operators and methods, so that the
contracts stay light and both sides still judge by the same lines.

All is compared in double precision. A NaN must stand where one was expected and nowhere else, an infinity likewise;
magnitudes over 1e150 count as 1e150. Integers and booleans are compared by the same tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from registry.contracts.catalogue.manifest import Parity, Special, Tolerance
from registry.contracts.tensors import Datatype, numbers

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
