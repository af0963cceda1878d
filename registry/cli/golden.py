"""The golden vectors of a version that is being published: given, or made; every variant that runs here is measured.

A version of several variants gets them as soon as one of them runs here, one of a single variant when they are asked.
A version in which a variant is over the tolerance is not published. What cannot run here is named, and is measured by
the devices that get it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.cli.failures import CliError, UsageFault
from registry.cli.golden_options import demand_comparable, given_cases, given_requests, signature
from registry.cli.local_files import LocalFile, hash_file
from registry.cli.measured import parity_figures
from registry.cli.plan import Plan
from registry.cli.publish_file import GoldenSection
from registry.cli.session import Session
from registry.contracts.batching import Basis, Batching
from registry.contracts.golden import MeasuredParity, Parity, Tolerance
from registry.contracts.golden_file import Case, write_cases
from registry.contracts.manifest import FileRef, Golden, Manifest
from registry.contracts.tensor_file import TensorFileError

FILE_NAME = "golden.safetensors"
DEFAULT_CASES = 8


@dataclass(frozen=True)
class Measured:
    """What became of one variant."""

    variant: str
    measured: MeasuredParity | None = None
    why: str = ""
    """Why it was not measured here."""


def given_golden(plan: Plan, manifest: Manifest, folder: Path) -> tuple[Manifest, LocalFile | None]:
    """The manifest with the golden vectors that the publisher gave, and their file; as it was where none were given.

    Raises:
        InspectionError: the file is not one of golden vectors, or not of this model.
    """
    path = plan.source.golden.file
    if path is None:
        return manifest, None
    return _with_golden(manifest, plan, given_cases(path, signature(manifest)), None, folder)


def measured(session: Session, plan: Plan, manifest: Manifest, folder: Path) -> tuple[Manifest, LocalFile | None]:
    """The manifest with golden vectors and what was measured by them, and their file; or as it was.

    Raises:
        CliError: a variant is over the tolerance (golden_mismatch), or what was asked for cannot be done.
    """
    section = plan.source.golden
    asked = section != GoldenSection(tolerance=section.tolerance)
    if section.random == 0:
        return manifest, None
    with ExitStack() as stack:
        if not asked and len(manifest.variants) < 2:
            return manifest, None
        trial = _Trial(plan, manifest, stack)
        try:
            cases, reference = trial.cases()
        except _NothingRunsError as error:
            if asked:
                raise
            session.out.note(f"  no golden vectors: {error.what}")
            return manifest, None
        except CliError as error:
            if asked:
                raise
            session.out.warn(f"no golden vectors: {error.what}. Give them, or inputs for them: --golden-inputs")
            return manifest, None
        rows = list(trial.measure(cases, reference))
    _tell(session, rows)
    _demand_passed(manifest, rows)
    manifest, file = _with_golden(manifest, plan, cases, reference, folder)
    variants = tuple(
        variant.model_copy(update={"parity": row.measured})
        for variant, row in zip(manifest.variants, rows, strict=True)
    )
    return manifest.model_copy(update={"variants": variants}), file


class _NothingRunsError(CliError):
    """No variant runs on this machine."""


class _Trial:
    """The variants of one version, started at most once each."""

    def __init__(self, plan: Plan, manifest: Manifest, stack: ExitStack) -> None:
        from registry.running.process import CannotRunError, ModelProcess, Order  # noqa: PLC0415 - needs NumPy
        from registry.running.runtimes import order_for  # noqa: PLC0415 - as above

        self._plan = plan
        self._manifest = manifest
        self._section = plan.source.golden
        self._stack = stack
        self._failure = CannotRunError
        self._start = ModelProcess
        self._orders: dict[str, Order | str] = {}
        for planned, variant in zip(plan.variants, manifest.variants, strict=True):
            self._orders[variant.name] = order_for(
                planned.section.file, variant.format, variant.target, variant.inputs, variant.outputs
            )
        self._running: dict[str, Any] = {}

    def process(self, name: str) -> Any:
        """The running variant, or why it does not run here."""
        if name not in self._running:
            order = self._orders[name]
            try:
                found = order if isinstance(order, str) else self._stack.enter_context(self._start(order))
            except self._failure as error:
                found = error.message
            self._running[name] = found
        return self._running[name]

    def cases(self) -> tuple[list[Case], str | None]:
        """The golden cases, and the variant that made them; None: they were given."""
        if self._section.file is not None:
            return given_cases(self._section.file, signature(self._manifest)), None
        from registry.running.parity import make_cases, random_inputs  # noqa: PLC0415 - needs NumPy
        from registry.running.process import RunFailedError  # noqa: PLC0415 - as above

        name = self._reference()
        process = self.process(name)
        specs = inputs, outputs = signature(self._manifest)
        if self._section.inputs is not None:
            requests: list[Any] = given_requests(self._section.inputs, inputs)
        else:
            count = DEFAULT_CASES if self._section.random is None else self._section.random
            requests = random_inputs(inputs, count, self._manifest.image)
        try:
            cases = make_cases(process, requests, outputs)
            demand_comparable(cases, specs)
        except RunFailedError as error:
            raise CliError(f"The reference {name} does not answer: {error.message}", code="run_failed") from None
        except TensorFileError as error:
            raise CliError(f"What {name} answers cannot be compared with: {error}", code="invalid_golden") from None
        return cases, name

    def _reference(self) -> str:
        """The named one, else the first that runs here."""
        wanted = self._section.reference
        if wanted is None:
            found = next((name for name in self._orders if not isinstance(self.process(name), str)), None)
            if found is None:
                why = "; ".join(f"{name}: {self.process(name)}" for name in self._orders)
                raise _NothingRunsError(f"no variant runs here ({why})", code="cannot_run")
            return found
        if wanted not in self._orders:
            raise UsageFault(f"There is no variant {wanted!r} to make golden vectors", hint=", ".join(self._orders))
        if isinstance(why := self.process(wanted), str):
            raise CliError(f"The reference {wanted} cannot run here: {why}", code="cannot_run")
        return wanted

    def measure(self, cases: Sequence[Case], reference: str | None) -> Iterator[Measured]:
        """Every variant, in the order of the manifest."""
        from registry.running.parity import measure  # noqa: PLC0415 - needs NumPy

        tolerance = Tolerance.model_validate(self._section.tolerance.model_dump())
        for name in self._orders:
            process = self.process(name)
            if isinstance(process, str):
                yield Measured(name, why=process)
            else:
                parity = measure(process, cases, tolerance)
                yield Measured(name, MeasuredParity(parity=parity, backend=process.backend, reference=reference))


def _with_golden(
    manifest: Manifest, plan: Plan, cases: Sequence[Case], reference: str | None, folder: Path
) -> tuple[Manifest, LocalFile]:
    """The manifest with these cases, and their file in `folder`; the given file as it is, if it is safetensors."""
    section = plan.source.golden
    path = folder / FILE_NAME
    if section.file is not None and section.file.suffix == ".safetensors":
        path = section.file
    else:
        try:
            path.write_bytes(write_cases(cases))
        except TensorFileError as error:
            raise CliError(f"Golden vectors cannot be made: {error}", code="too_large") from None
    file = hash_file(path, lambda _count: None)
    golden = Golden(
        file=FileRef(path=FILE_NAME, digest=file.digest, size=file.size),
        cases=len(cases),
        reference=reference,
        tolerance=Tolerance.model_validate(section.tolerance.model_dump()),
    )
    return manifest.model_copy(update={"golden": golden}), file


def _tell(session: Session, rows: Sequence[Measured]) -> None:
    for row in rows:
        if row.measured is None:
            session.out.note(f"  {row.variant}: not measured here: {row.why}")
        else:
            parity = row.measured.parity
            figures = f"{_figures(parity)}: {'passed' if parity.passed else parity.why}"
            session.out.note(f"  {row.variant}: measured here on {row.measured.backend}: {figures}")


def _figures(parity: Parity) -> str:
    max_abs, max_rel, top1, run = parity_figures(parity)
    return f"max abs {max_abs}, max rel {max_rel}, top-1 {top1}, {run} a run"


def _demand_passed(manifest: Manifest, rows: Sequence[Measured]) -> None:
    off = [(row.variant, row.measured.parity) for row in rows if row.measured and not row.measured.parity.passed]
    if off:
        raise CliError(
            f"{manifest.model}@{manifest.version} is not published: a variant does not answer the golden vectors",
            code="golden_mismatch",
            hint="Convert it again, or say what is acceptable: --tolerance absolute=1e-3,relative=1e-2,top1=0.99",
            errors=tuple(f"{name}: {parity.why} ({_figures(parity)})" for name, parity in off),
        )


def declared(manifest: Manifest) -> Manifest:
    """What the publisher said: without what was measured or made here, which differs from run to run."""
    variants = tuple(
        variant.model_copy(update={"parity": None, "batching": _said_by_publisher(variant.batching)})
        for variant in manifest.variants
    )
    golden = manifest.golden
    if golden is not None and golden.reference is not None:
        golden = None
    return manifest.model_copy(update={"variants": variants, "golden": golden})


def _said_by_publisher(batching: Batching | None) -> Batching | None:
    """What a graph proves may change with the program that reads it."""
    return batching if batching is not None and batching.basis is Basis.PUBLISHER else None


def demand_as_asked(plan: Plan, published: Manifest) -> None:
    """A published version whose golden vectors are not what is asked for now is other content.

    Vectors made here differ from run to run, so they are compared by what was said of them: tolerance and reference.

    Raises:
        CliError: conflict.
    """
    section, theirs = plan.source.golden, published.golden
    tolerance = Tolerance.model_validate(section.tolerance.model_dump())
    faults: list[str] = []
    if theirs is None:
        if section.random != 0 and section != GoldenSection(tolerance=section.tolerance):
            faults.append("golden: has none; some are asked for")
    else:
        if section.random == 0:
            faults.append(f"golden: has {theirs.cases}; none are asked for")
        if tolerance != theirs.tolerance:
            faults.append(f"golden.tolerance: is {_said(theirs.tolerance)}; {_said(tolerance)} is asked for")
        if section.reference not in (None, theirs.reference):
            faults.append(f"golden.reference: is {theirs.reference}; {section.reference} is asked for")
    if faults:
        raise CliError(
            f"{published.model}@{published.version} is published with other golden vectors, and a published version "
            "never changes",
            code="conflict",
            hint="Publish this as a new version: --version",
            errors=tuple(faults),
        )


def _said(tolerance: Tolerance) -> str:
    return f"absolute={tolerance.absolute:g},relative={tolerance.relative:g},top1={tolerance.top1_agreement:g}"
