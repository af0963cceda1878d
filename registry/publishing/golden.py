"""The golden vectors of a version that is being published: given, or made; every variant that runs here is measured.

A version of several variants gets them as soon as one of them runs here, one of a single variant when they are asked.
A version in which a variant is over the tolerance is not published. What cannot run here is named, and is measured by
the devices that get it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from registry.client.errors import ClientError, UsageFault
from registry.client.local_files import LocalFile, hash_file
from registry.contracts.catalogue.classes import ROUNDING, scores_fault, scores_of
from registry.contracts.catalogue.golden import MeasuredParity, Parity, parity_figures
from registry.contracts.catalogue.manifest import FileRef, Golden, Manifest
from registry.contracts.comparison.golden_file import Case, write_cases
from registry.contracts.comparison.parity import numbers
from registry.contracts.tensor_file import Tensor, TensorFileError
from registry.publishing.cases import Signature, given_cases, given_requests, require_comparable, signature
from registry.publishing.observer import Observer
from registry.publishing.source import GoldenSource, name_of
from registry.running.parity import array_of, make_cases, measure, random_inputs
from registry.running.process import ModelProcess, ModelRunError
from registry.running.smoke import smoke
from registry.running.variants import LocalVariants

FILE_NAME = "golden.safetensors"
DEFAULT_CASES = 8
TRIAL_LIMITS = {"load_timeout_s": 60.0, "run_timeout_s": 30.0}
"""Of the one trial of a version without golden vectors."""


@dataclass(frozen=True)
class Measured:
    """A manifest with what is known of its golden vectors."""

    manifest: Manifest
    file: LocalFile | None = None
    """The golden vectors; None: there are none."""
    cases: Sequence[Case] = ()
    """The same."""
    warnings: tuple[str, ...] = ()


def with_given(source: GoldenSource, manifest: Manifest) -> Measured:
    """The manifest with the golden vectors that the publisher gave, or another version's; as it was without any.

    Raises:
        ClientError, InspectionError: there is no such file, or it is not one of golden vectors, or not of this model.
    """
    if source.given is None:
        return Measured(manifest)
    return _with_cases(source, manifest, given_cases(source.given, signature(manifest)), None)


def measured(files: Mapping[str, Path], source: GoldenSource, given: Measured, observer: Observer) -> Measured:
    """The manifest with golden vectors and what was measured by them, and their file; or as it was, tried once.

    Args:
        files: The model file of each variant, by name.
        source: Where the vectors come from.
        given: Of `with_given`.
        observer: Told what was found.

    Raises:
        ClientError: a variant is over the tolerance (golden_mismatch), or what was asked for cannot be done.
    """
    manifest, asked = given.manifest, source.asked
    if asked.random == 0:
        return given
    tried_only = not asked.says_more and len(files) < 2
    with ExitStack() as stack:
        limits = TRIAL_LIMITS if tried_only else {}
        here = LocalVariants(manifest.variants, lambda variant: files[variant.name], stack, **limits)
        if tried_only:
            return replace(given, warnings=_tried(here, manifest, observer))
        try:
            cases, reference = (given.cases, None) if given.cases else _made(source, manifest, here, stack)
        except ClientError as error:
            if asked.says_more:
                raise
            text = f"no golden vectors: {error.what}"
            if error.code == "cannot_run":
                observer.finding(text)
                return given
            text += ". Give them, or inputs for them: --golden-inputs"
            observer.warn(text)
            return replace(given, warnings=(text,))
        require_classes(manifest, cases[0].outputs)
        found: dict[str, MeasuredParity] = {}
        for name in files:
            if isinstance(process := here.process(name), str):
                observer.finding(f"{name}: not measured here: {process}")
            else:
                parity = measure(process, cases, asked.tolerance)
                found[name] = MeasuredParity(parity=parity, backend=process.backend, reference=reference)
                verdict = "passed" if parity.passed else parity.why
                observer.finding(f"{name}: measured here on {process.backend}: {_figures(parity)}: {verdict}")
    _require_passed(manifest, found)
    if not given.cases:
        given = _with_cases(source, manifest, cases, reference)
    variants = tuple(v.model_copy(update={"parity": found.get(v.name)}) for v in manifest.variants)
    return replace(given, manifest=given.manifest.model_copy(update={"variants": variants}))


def _made(
    source: GoldenSource, manifest: Manifest, here: LocalVariants, stack: ExitStack
) -> tuple[Sequence[Case], str | None]:
    """New golden cases, and the variant that made them; None: another version did."""
    specs = inputs, outputs = signature(manifest)
    if source.compared is not None:
        _require_alike(source.compared, specs)
        name, process = name_of(source.compared), source.started(stack)
    else:
        name, process = _reference(source.asked.reference, manifest, here)
    requests: Sequence[Mapping[str, Tensor]]
    if source.asked.inputs is not None:
        requests = given_requests(source.asked.inputs, inputs)
    else:
        requests = random_inputs(inputs, source.asked.random or DEFAULT_CASES, manifest.image)
    try:
        cases = make_cases(process, requests, outputs)
        require_comparable(cases, specs)
    except ModelRunError as error:
        raise ClientError(f"The reference {name} does not answer: {error.message}", code="run_failed") from None
    except TensorFileError as error:
        raise ClientError(f"What {name} answers cannot be compared with: {error}", code="invalid_golden") from None
    return cases, name if source.compared is None else None


def _reference(wanted: str | None, manifest: Manifest, here: LocalVariants) -> tuple[str, ModelProcess]:
    """The named variant, else the first that runs here."""
    if wanted is None:
        if (found := here.first()) is None:
            raise ClientError(f"no variant runs here ({'; '.join(here.reasons())})", code="cannot_run")
        return found
    if manifest.variant(wanted) is None:
        names = ", ".join(variant.name for variant in manifest.variants)
        raise UsageFault(f"There is no variant {wanted!r} to make golden vectors", hint=names)
    if isinstance(process := here.process(wanted), str):
        raise ClientError(f"The reference {wanted} cannot run here: {process}", code="cannot_run")
    return wanted, process


def _tried(here: LocalVariants, manifest: Manifest, observer: Observer) -> tuple[str, ...]:
    """What one request of random values shows of the first variant that runs here; warnings."""
    if (first := here.first()) is None:
        observer.finding(f"not tried here ({'; '.join(here.reasons())})")
        return ()
    name, process = first
    variant = next(variant for variant in manifest.variants if variant.name == name)
    try:
        found = smoke(process, variant.inputs, variant.outputs, manifest.image)
    except ModelRunError as error:
        observer.finding(f"{name}: a trial request of random values failed, so it is not tried: {error.message}")
        return ()
    require_classes(manifest, found.outputs)
    warnings = tuple(f"{name}: {text}" for text in found.warnings)
    for text in warnings:
        observer.warn(text)
    return warnings


def _with_cases(source: GoldenSource, manifest: Manifest, cases: Sequence[Case], reference: str | None) -> Measured:
    """The manifest with these cases, and their file: the given one as it is, if it is safetensors."""
    path = source.given
    if path is None or path.suffix != ".safetensors":
        path = source.folder / FILE_NAME
        path.write_bytes(write_cases(cases))
    file = hash_file(path)
    golden = Golden(
        file=FileRef(path=FILE_NAME, digest=file.digest, size=file.size),
        cases=len(cases),
        reference=reference,
        of=source.asked.of,
        compared_with=source.asked.compare_with,
        tolerance=source.asked.tolerance,
    )
    return Measured(manifest.model_copy(update={"golden": golden}), file, cases)


def _require_alike(compared: Manifest, specs: Signature) -> None:
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
    scores = scores_of(tensor.shape, labels)
    if scores is None or scores.each != 1:
        return False
    values = numbers(tensor.datatype, array_of(tensor))
    return bool(((values < -ROUNDING) | (values > 1 + ROUNDING)).any())


def _figures(parity: Parity) -> str:
    max_abs, max_rel, top1, run = parity_figures(parity)
    return f"max abs {max_abs}, max rel {max_rel}, top-1 {top1}, {run} a run"


def _require_passed(manifest: Manifest, found: Mapping[str, MeasuredParity]) -> None:
    off = {name: measured.parity for name, measured in found.items() if not measured.parity.passed}
    if off:
        raise ClientError(
            f"{name_of(manifest)} is not published: a variant does not answer the golden vectors",
            code="golden_mismatch",
            hint="Convert it again, or say what is acceptable: --tolerance absolute=1e-3,relative=1e-2,top1=0.99",
            errors=tuple(f"{name}: {parity.why} ({_figures(parity)})" for name, parity in off.items()),
        )
