"""The golden vectors of a version that is being published: given, or made; every variant that runs here is measured.

A version of several variants gets them as soon as one of them runs here, one of a single variant when they are asked.
A version in which a variant is over the tolerance is not published. What cannot run here is named, and is measured by
the devices that get it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.cli.catalogue.measured import parity_figures
from registry.cli.session import Session
from registry.client.errors import ClientError, UsageFault
from registry.client.local_files import LocalFile, hash_file
from registry.contracts.catalogue.classes import ROUNDING, scores_fault, scores_of
from registry.contracts.catalogue.golden import MeasuredParity, Parity, Tolerance
from registry.contracts.catalogue.manifest import FileRef, Golden, Manifest, TensorSpec
from registry.contracts.comparison.golden_file import Case, write_cases
from registry.contracts.tensor_file import Tensor, TensorFileError
from registry.publishing.golden_cases import given_cases, given_requests, require_comparable, signature
from registry.publishing.golden_versions import Others, name_of
from registry.publishing.plan import Plan
from registry.publishing.request import GoldenSection

FILE_NAME = "golden.safetensors"
DEFAULT_CASES = 8
TRIAL_LIMITS = {"load_timeout_s": 60.0, "run_timeout_s": 30.0}
"""Of the one trial of a version without golden vectors."""


@dataclass(frozen=True)
class Measured:
    """What became of one variant."""

    variant: str
    measured: MeasuredParity | None = None
    why: str = ""
    """Why it was not measured here."""


@dataclass(frozen=True)
class Made:
    """What became of a version's golden vectors."""

    manifest: Manifest
    file: LocalFile | None = None
    warnings: tuple[str, ...] = ()


def given_golden(plan: Plan, manifest: Manifest, others: Others) -> tuple[Manifest, LocalFile | None]:
    """The manifest with the golden vectors that the publisher gave, or another version's, and their file; as it was
    where none were given.

    Raises:
        ClientError, InspectionError: there is no such file, or it is not one of golden vectors, or not of this model.
    """
    path = plan.source.golden.file or others.vectors()
    if path is None:
        return manifest, None
    return _with_golden(manifest, plan, given_cases(path, signature(manifest)), None, others.folder, given=path)


def measured(session: Session, plan: Plan, manifest: Manifest, others: Others) -> Made:
    """The manifest with golden vectors and what was measured by them, and their file; or as it was, tried once.

    Raises:
        ClientError: a variant is over the tolerance (golden_mismatch), or what was asked for cannot be done.
    """
    section = plan.source.golden
    asked = section != GoldenSection(tolerance=section.tolerance)
    if section.random == 0:
        return Made(manifest)
    with ExitStack() as stack:
        trial = _Trial(plan, manifest, others, stack)
        if not asked and len(manifest.variants) < 2:
            return Made(manifest, warnings=trial.tried(session))
        try:
            cases, reference = trial.cases()
        except _NothingRunsError as error:
            if asked:
                raise
            session.out.note(f"  no golden vectors: {error.what}")
            return Made(manifest)
        except ClientError as error:
            if asked:
                raise
            text = f"no golden vectors: {error.what}. Give them, or inputs for them: --golden-inputs"
            session.out.warn(text)
            return Made(manifest, warnings=(text,))
        require_classes(manifest, cases[0].outputs)
        rows = list(trial.measure(cases, reference))
    _tell(session, rows)
    _require_passed(manifest, rows)
    given = section.file or others.vectors()
    manifest, file = _with_golden(manifest, plan, cases, reference, others.folder, given=given)
    variants = tuple(
        variant.model_copy(update={"parity": row.measured})
        for variant, row in zip(manifest.variants, rows, strict=True)
    )
    return Made(manifest.model_copy(update={"variants": variants}), file)


class _NothingRunsError(ClientError):
    """No variant runs on this machine."""


class _Trial:
    """The variants of one version, started at most once each."""

    def __init__(self, plan: Plan, manifest: Manifest, others: Others, stack: ExitStack) -> None:
        from registry.running.process import CannotRunError, ModelProcess, Order  # noqa: PLC0415 - needs NumPy
        from registry.running.runtimes import order_for  # noqa: PLC0415 - as above

        self._plan = plan
        self._others = others
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

    def process(self, name: str, *, brief: bool = False) -> Any:
        """The running variant, or why it does not run here. `brief`: for one trial, with shorter deadlines."""
        if name not in self._running:
            order = self._orders[name]
            try:
                limits = TRIAL_LIMITS if brief else {}
                found = order if isinstance(order, str) else self._stack.enter_context(self._start(order, **limits))
            except self._failure as error:
                found = error.message
            self._running[name] = found
        return self._running[name]

    def cases(self) -> tuple[list[Case], str | None]:
        """The golden cases, and the variant that made them; None: they were given, or made by another version."""
        given = self._section.file or self._others.vectors()
        if given is not None:
            return given_cases(given, signature(self._manifest)), None
        from registry.running.parity import make_cases, random_inputs  # noqa: PLC0415 - needs NumPy
        from registry.running.process import ModelRunError  # noqa: PLC0415 - as above

        specs = inputs, outputs = signature(self._manifest)
        compared = self._others.compared
        if compared is not None:
            _require_alike(compared, specs)
            name, process = name_of(compared), self._others.started(self._stack)
        else:
            name = self._reference()
            process = self.process(name)
        if self._section.inputs is not None:
            requests: list[Any] = given_requests(self._section.inputs, inputs)
        else:
            count = DEFAULT_CASES if self._section.random is None else self._section.random
            requests = random_inputs(inputs, count, self._manifest.image)
        try:
            cases = make_cases(process, requests, outputs)
            require_comparable(cases, specs)
        except ModelRunError as error:
            raise ClientError(f"The reference {name} does not answer: {error.message}", code="run_failed") from None
        except TensorFileError as error:
            raise ClientError(f"What {name} answers cannot be compared with: {error}", code="invalid_golden") from None
        return cases, None if compared is not None else name

    def tried(self, session: Session) -> tuple[str, ...]:
        """What one request of random values shows of the first variant that runs here; warnings."""
        from registry.running.process import ModelRunError  # noqa: PLC0415 - needs NumPy
        from registry.running.smoke import smoke  # noqa: PLC0415 - as above

        name = next((name for name in self._orders if not isinstance(self.process(name, brief=True), str)), None)
        if name is None:
            why = "; ".join(f"{name}: {self.process(name, brief=True)}" for name in self._orders)
            session.out.note(f"  not tried here ({why})")
            return ()
        variant = next(variant for variant in self._manifest.variants if variant.name == name)
        try:
            found = smoke(self.process(name), variant.inputs, variant.outputs, self._manifest.image)
        except ModelRunError as error:
            session.out.note(f"  {name}: a trial request of random values failed, so it is not tried: {error.message}")
            return ()
        require_classes(self._manifest, found.outputs)
        warnings = tuple(f"{name}: {text}" for text in found.warnings)
        for text in warnings:
            session.out.warn(text)
        return warnings

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
            raise ClientError(f"The reference {wanted} cannot run here: {why}", code="cannot_run")
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
    manifest: Manifest, plan: Plan, cases: Sequence[Case], reference: str | None, folder: Path, *, given: Path | None
) -> tuple[Manifest, LocalFile]:
    """The manifest with these cases, and their file in `folder`; the given file as it is, if it is safetensors."""
    section = plan.source.golden
    path = folder / FILE_NAME
    if given is not None and given.suffix == ".safetensors":
        path = given
    else:
        try:
            path.write_bytes(write_cases(cases))
        except TensorFileError as error:
            raise ClientError(f"Golden vectors cannot be made: {error}", code="too_large") from None
    file = hash_file(path, lambda _count: None)
    golden = Golden(
        file=FileRef(path=FILE_NAME, digest=file.digest, size=file.size),
        cases=len(cases),
        reference=reference,
        of=section.of,
        compared_with=section.compare_with,
        tolerance=Tolerance.model_validate(section.tolerance.model_dump()),
    )
    return manifest.model_copy(update={"golden": golden}), file


def _require_alike(compared: Manifest, specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]) -> None:
    """Raises ClientError: the other version takes or gives other tensors, so that there is nothing to compare."""
    theirs = signature(compared)
    for kind, ours, others in zip(("input", "output"), specs, theirs, strict=True):
        have = {spec.name: spec.datatype for spec in others}
        odd = next((spec for spec in ours if have.get(spec.name) != spec.datatype), None)
        if odd is not None:
            raise ClientError(
                f"{name_of(compared)} cannot be compared with: it has no {kind} {odd.name!r} of {odd.datatype}",
                code="invalid_golden",
            )


def require_classes(manifest: Manifest, outputs: Mapping[str, Tensor]) -> None:
    """The classification fits what a variant really answered. Raises UsageFault."""
    declared = manifest.classification
    tensor = outputs.get(declared.output) if declared is not None else None
    if declared is None or tensor is None:
        return
    fault = scores_fault(declared, tensor.datatype, tensor.shape, manifest.variants[0].inputs)
    if not fault and not declared.softmax and _single_beyond(tensor, len(declared.labels)):
        fault = "is no probability, as softmax = false says: it is not within 0 to 1. A logit needs softmax = true"
    if fault:
        text = f"classification: output {declared.output!r} {fault}"
        raise UsageFault("This cannot be published as it is: a trial request was answered", errors=(text,))


def _single_beyond(tensor: Tensor, labels: int) -> bool:
    """One number for each item, and not all of them are within 0 to 1."""
    from registry.contracts.comparison.parity import numbers  # noqa: PLC0415 - needs NumPy
    from registry.running.parity import array_of  # noqa: PLC0415 - as above

    scores = scores_of(tensor.shape, labels)
    if scores is None or scores.each != 1:
        return False
    values = numbers(tensor.datatype, array_of(tensor))
    return bool(((values < -ROUNDING) | (values > 1 + ROUNDING)).any())


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


def _require_passed(manifest: Manifest, rows: Sequence[Measured]) -> None:
    off = [(row.variant, row.measured.parity) for row in rows if row.measured and not row.measured.parity.passed]
    if off:
        raise ClientError(
            f"{manifest.model}@{manifest.version} is not published: a variant does not answer the golden vectors",
            code="golden_mismatch",
            hint="Convert it again, or say what is acceptable: --tolerance absolute=1e-3,relative=1e-2,top1=0.99",
            errors=tuple(f"{name}: {parity.why} ({_figures(parity)})" for name, parity in off),
        )
