"""The file of golden vectors: case i has the tensors `i/in/<input name>` and `i/out/<output name>`, i from 0.

Pure. Publisher, registry and agent read it with this; each checks it against the signature that it knows. They also
compare outputs with golden ones with this, without an import of NumPy: it takes NumPy arrays and uses only their
operators and methods, so that the contracts stay light and all sides still judge by the same lines.

All is compared in double precision. A NaN must stand where one was expected and nowhere else, an infinity likewise;
magnitudes over 1e150 count as 1e150. Integers and booleans are compared by the same tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from registry.contracts.catalogue.manifest import (
    MAX_GOLDEN_BYTES,
    MAX_GOLDEN_CASES,
    Parity,
    Special,
    TensorSpec,
    Tolerance,
)
from registry.contracts.tensor_file import (
    Buffer,
    Tensor,
    TensorFileError,
    TensorSpan,
    read_spans,
    shape_fits,
    write_tensors,
)
from registry.contracts.tensors import MAX_TENSORS, Datatype, numbers

_SIDES = ("in", "out")


class GoldenCase(NamedTuple):
    """One request and what must come back, as spans of the file. An output that is not here is not compared."""

    inputs: dict[str, TensorSpan]
    """By the input's name."""
    outputs: dict[str, TensorSpan]
    """By the output's name."""


class Case(NamedTuple):
    """One case with its bytes, to write."""

    inputs: dict[str, Tensor]
    """By the input's name."""
    outputs: dict[str, Tensor]
    """By the output's name."""


def read_cases(head: Buffer, size: int) -> tuple[GoldenCase, ...]:
    """The cases of a file of `size` bytes; `head` is at least its header.

    Raises TensorFileError: it is too large, no safetensors file, or its names are not those of cases.
    """
    if size > MAX_GOLDEN_BYTES:
        raise TensorFileError(f"it has {size} bytes; golden vectors have at most {MAX_GOLDEN_BYTES}")
    cases: dict[int, GoldenCase] = {}
    for name, span in read_spans(head, size, MAX_GOLDEN_CASES * 2 * MAX_TENSORS).items():
        number, side, tensor = _parts(name)
        case = cases.setdefault(number, GoldenCase({}, {}))
        (case.inputs if side == "in" else case.outputs)[tensor] = span
    if sorted(cases) != list(range(len(cases))):
        raise TensorFileError(f"its {len(cases)} cases are not numbered from 0 without a gap")
    return tuple(cases[number] for number in range(len(cases)))


def with_bytes(cases: Sequence[GoldenCase], content: bytes) -> list[Case]:
    """The cases of a file that was read whole."""

    def tensors(spans: Mapping[str, TensorSpan]) -> dict[str, Tensor]:
        return {n: Tensor(s.datatype, s.shape, content[s.begin : s.end]) for n, s in spans.items()}

    return [Case(tensors(case.inputs), tensors(case.outputs)) for case in cases]


def check_cases(
    cases: Sequence[GoldenCase],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    count: int | None = None,
) -> None:
    """Every case has all inputs and at least one output, of the declared datatypes; and nothing else.

    Inputs have the declared shapes; an output has the one that its model gave, whatever the file declares.
    No tensor is without elements: it would be compared with nothing.

    `count`: as many as the manifest says. Raises TensorFileError.
    """
    if count is not None and len(cases) != count:
        raise TensorFileError(f"it has {len(cases)} cases, the manifest says {count}")
    for number, case in enumerate(cases):
        missing = [spec.name for spec in inputs if spec.name not in case.inputs]
        if missing:
            raise TensorFileError(f"case {number} has no input {missing[0]!r}")
        if not case.outputs:
            raise TensorFileError(f"case {number} has no output: nothing would be compared")
        check_tensors(f"case {number}: input", case.inputs, inputs)
        check_tensors(f"case {number}: output", case.outputs, outputs, shapes=False)


def write_cases(cases: Sequence[Case], metadata: Mapping[str, str] | None = None) -> bytes:
    """The file with these cases. Raises TensorFileError: too many, too large, or a tensor that cannot be written."""
    if not 1 <= len(cases) <= MAX_GOLDEN_CASES:
        raise TensorFileError(f"{len(cases)} golden cases; 1 to {MAX_GOLDEN_CASES} are allowed")
    tensors = {
        f"{number}/{side}/{name}": tensor
        for number, case in enumerate(cases)
        for side, group in zip(_SIDES, case, strict=True)
        for name, tensor in group.items()
    }
    content = write_tensors(tensors, metadata)
    if len(content) > MAX_GOLDEN_BYTES:
        raise TensorFileError(
            f"the golden vectors take {len(content)} bytes; at most {MAX_GOLDEN_BYTES}, because every device loads them"
        )
    return content


def _parts(name: str) -> tuple[int, str, str]:
    number, _, rest = name.partition("/")
    side, _, tensor = rest.partition("/")
    plain = number.isascii() and number.isdecimal() and len(number) <= 2 and str(int(number)) == number
    if not plain or int(number) >= MAX_GOLDEN_CASES or side not in _SIDES or not tensor:
        raise TensorFileError(
            f"tensor {name[:256]!r} is not named <case>/in/<input> or <case>/out/<output>, "
            f"with cases from 0 to {MAX_GOLDEN_CASES - 1}"
        )
    return int(number), side, tensor


def check_tensors(
    where: str, tensors: Mapping[str, TensorSpan | Tensor], specs: Sequence[TensorSpec], *, shapes: bool = True
) -> None:
    """Each is one of these by name, datatype and, if `shapes`, shape; and has elements. `where` begins the text.

    Raises TensorFileError.
    """
    declared = {spec.name: spec for spec in specs}
    for name, span in tensors.items():
        spec = declared.get(name)
        if spec is None:
            known = ", ".join(declared)
            raise TensorFileError(f"{where} {name[:256]!r} is not the model's; it has {known}")
        if spec.datatype != span.datatype:
            raise TensorFileError(f"{where} {name!r} is {span.datatype}, the model has {spec.datatype}")
        if shapes and not spec.any_rank and not shape_fits(span.shape, spec.shape):
            raise TensorFileError(f"{where} {name!r} is {list(span.shape)}, the model has {list(spec.shape)}")
        if 0 in span.shape:
            raise TensorFileError(f"{where} {name!r} is {list(span.shape)}, without elements: nothing to compare")


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
