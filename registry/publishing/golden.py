"""The golden vectors of a version that is being published: given, another version's, or made; and what they measure.

A version of several variants gets them as soon as one of them runs here, one of a single variant when they are asked.
Given ones are checked against the signature that all variants have in common. Every variant that runs here is measured;
a version in which one is over the tolerance is not published. What cannot run here is named, and is measured by the
devices that get it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from registry.client.api import ApiClient
from registry.client.errors import ClientError, UsageFault
from registry.client.transfers import LocalFile, download, hash_file
from registry.client.versions import fetch_manifest, find_version, split_version
from registry.contracts.catalogue.classes import ROUNDING, scores_fault, scores_of
from registry.contracts.catalogue.detection import OutputForm, detection_faults
from registry.contracts.catalogue.manifest import (
    MAX_GOLDEN_BYTES,
    MAX_GOLDEN_CASES,
    FileRef,
    Golden,
    Manifest,
    MeasuredParity,
    Parity,
    TensorSpec,
    Variant,
    parity_figures,
)
from registry.contracts.catalogue.picture_inputs import item_shape, request_shape
from registry.contracts.golden_vectors import (
    Case,
    check_cases,
    check_tensors,
    read_cases,
    with_bytes,
    write_cases,
)
from registry.contracts.tensor_file import Tensor, TensorFileError, write_tensors
from registry.contracts.tensors import MAX_TENSORS, NUMPY_NAME, Datatype, numbers
from registry.inspection.arrays import load_tensors
from registry.inspection.facts import InspectionError
from registry.pictures.detections import DetectionError, DetectionLimits, RawOutput, detect, doubt_of, reading_of
from registry.pictures.placement import Placement
from registry.publishing.plan import Observer
from registry.publishing.request import GoldenSection
from registry.running.parity import array_of, make_cases, measure, random_inputs, smoke
from registry.running.process import LocalVariants, ModelProcess, ModelRunError

Tensors = tuple[TensorSpec, ...]
Signature = tuple[Tensors, Tensors]
"""Inputs and outputs."""
MAX_GOLDEN_TENSORS = MAX_GOLDEN_CASES * 2 * MAX_TENSORS
FILE_NAME = "golden.safetensors"
DEFAULT_CASES = 8
TRIAL_LIMITS = {"load_timeout_s": 60.0, "run_timeout_s": 30.0}
"""Of the one trial of a version without golden vectors."""


class GoldenSource:
    """What is asked for, with the versions that it names.

    Args:
        client: The registry.
        asked: What the publisher says.
        folder: Where files are fetched to; whoever makes it removes it.
        observer: Told of downloads.

    Raises:
        ClientError: such a version is not there, or has no golden vectors.
    """

    def __init__(self, client: ApiClient, asked: GoldenSection, folder: Path, observer: Observer) -> None:
        self._client, self.folder, self._observer = client, folder, observer
        update: dict[str, object] = {}
        self.given = asked.file
        """The file of golden vectors that the publisher gave, or of the version `of`; None: they are made."""
        self.compared = self._found(asked.compare_with)
        """The version whose model makes the outputs."""
        if self.compared is not None:
            update["compare_with"] = name_of(self.compared)
        if (of := self._found(asked.of)) is not None:
            if of.golden is None:
                hint = "--compare-with makes them with its model, where that runs here"
                raise ClientError(f"{name_of(of)} has no golden vectors", code="not_found", hint=hint)
            self.given = self._fetched(of.golden.file, folder / f"of-{of.golden.file.digest[-16:]}.safetensors")
            update["of"] = name_of(of)
            if "tolerance" not in asked.model_fields_set:
                update["tolerance"] = of.golden.tolerance
        self.asked = asked.model_copy(update=update)
        """What the publisher says, with the full names of versions; the tolerance of `of` goes with its vectors."""

    def started(self, stack: ExitStack) -> ModelProcess:
        """The first variant of `compared` that runs here. Raises ClientError(cannot_run): none does."""
        assert self.compared is not None  # noqa: S101 - asked by whoever has it
        variants = LocalVariants(self.compared.variants, self._brought, stack)
        found = variants.first()
        if found is None:
            text = f"{name_of(self.compared)} cannot run here to be compared with"
            raise ClientError(text, code="cannot_run", errors=variants.reasons())
        return found[1]

    def _brought(self, variant: Variant) -> Path:
        folder = self.folder / "compared" / variant.name
        for file in variant.files:
            self._fetched(file, folder / file.path)
        return folder / variant.entry

    def _fetched(self, file: FileRef, place: Path) -> Path:
        place.parent.mkdir(parents=True, exist_ok=True)
        with self._observer.progress(f"pulling {place.name}", file.size) as at:
            download(self._client, file, place, at, self._observer.note)
        return place

    def _found(self, reference: str | None) -> Manifest | None:
        if reference is None:
            return None
        return fetch_manifest(self._client, find_version(self._client, *split_version(reference)))


def name_of(manifest: Manifest) -> str:
    """`lenet@1.0.0`."""
    return f"{manifest.model}@{manifest.version}"


def signature(manifest: Manifest) -> Signature:
    """What fits every variant: a dimension is only free where it is in all of them."""
    told = [variant for variant in manifest.variants if variant.inputs]
    if not told:
        raise UsageFault("Golden vectors need a variant that says its inputs and outputs")
    inputs = _narrowed([variant.inputs for variant in told])
    outputs = _narrowed([variant.outputs for variant in told])
    if any(spec.datatype is Datatype.BYTES for spec in inputs):
        raise UsageFault("A model that takes BYTES has no golden vectors: their file has no form for it")
    return inputs, tuple(spec for spec in outputs if spec.datatype is not Datatype.BYTES)


def _narrowed(sides: Sequence[Tensors]) -> Tensors:
    return tuple(
        same[0].model_copy(
            update={"shape": tuple(max(dims) for dims in zip(*(spec.shape for spec in same), strict=True))}
        )
        for same in zip(*sides, strict=True)
    )


def given_cases(path: Path, specs: Signature) -> list[Case]:
    """The cases of a file that a person gave. Raises InspectionError."""
    try:
        content = write_tensors(load_tensors(path, MAX_GOLDEN_BYTES, MAX_GOLDEN_TENSORS))
        cases = with_bytes(read_cases(content, len(content)), content)
        require_comparable(cases, specs)
    except TensorFileError as error:
        raise InspectionError(f"{path.name}: {error}") from None
    return cases


def require_comparable(cases: Sequence[Case], specs: Signature) -> None:
    """They are of this model, and in some case each output has something to compare with: NaN and infinities are
    compared too, but a version of which nothing else is known proves nothing. Raises TensorFileError."""
    content = write_cases(cases)
    check_cases(read_cases(content, len(content)), *specs)
    finite: dict[str, bool] = {}
    for case in cases:
        for name, (datatype, _, data) in case.outputs.items():
            found = bool(np.isfinite(numbers(datatype, np.frombuffer(data, NUMPY_NAME[datatype]))).any())
            finite[name] = found or finite.get(name, False)
    if bare := [name for name, found in finite.items() if not found]:
        raise TensorFileError(
            f"output {bare[0]!r} has no finite element in any case, only NaN or infinity: nothing to compare"
        )


def given_requests(path: Path, inputs: Sequence[TensorSpec]) -> list[dict[str, Tensor]]:
    """`<case>/in/<input>` each; or the inputs by their names: one case. Nothing else. Raises InspectionError."""
    tensors = load_tensors(path, MAX_GOLDEN_BYTES, MAX_GOLDEN_TENSORS)
    names = {spec.name for spec in inputs}
    found: list[dict[str, Tensor]] = []
    if names <= tensors.keys():
        found.append({name: tensors.pop(name) for name in names})
    else:
        while all(f"{len(found)}/in/{name}" in tensors for name in names):
            number = len(found)
            found.append({name: tensors.pop(f"{number}/in/{name}") for name in names})
    if not found:
        raise InspectionError(
            f"{path.name} has neither the inputs {', '.join(sorted(names))}, nor 0/in/<input> of each"
        )
    if tensors:
        wanted = ", ".join(sorted(names))
        raise InspectionError(
            f"{path.name}: {min(tensors)[:256]!r} belongs to no case; of each it has the inputs {wanted}, no outputs"
        )
    try:
        for number, request in enumerate(found):
            check_tensors(f"case {number}: input", request, inputs)
    except TensorFileError as error:
        raise InspectionError(f"{path.name}: {error}") from None
    return found


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
        alone = [case for case in cases if is_one_item(manifest, case.inputs)]
        if doubt := require_detections(manifest, alone[0].outputs if alone else {}):
            observer.warn(doubt)
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
    doubt = require_detections(manifest, found.outputs)
    warnings = tuple(f"{name}: {text}" for text in (doubt, *found.warnings) if text)
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


def is_one_item(manifest: Manifest, inputs: Mapping[str, Tensor]) -> bool:
    """Is a request of the size of one picture?"""
    image = manifest.image
    return image is None or all(
        request_shape(item_shape(image), tensor.shape) is not None
        for name, tensor in inputs.items()
        if name == image.input
    )


def require_detections(manifest: Manifest, outputs: Mapping[str, Tensor]) -> str:
    """The detection fits what a variant really answered; a doubt about it, or nothing. Raises UsageFault."""
    declared, image = manifest.detection, manifest.image
    if declared is None or image is None:
        return ""
    forms = {name: OutputForm(tensor.datatype, tensor.shape) for name, tensor in outputs.items()}
    if not all(name in forms for name in declared.outputs):
        return ""  # golden vectors that were given may have fewer outputs
    doubt, faults = "", list(detection_faults(declared, forms))
    if not faults:
        usual = DetectionLimits(declared.score_threshold, declared.iou_threshold, declared.max_detections)
        raw = {name: RawOutput(str(each.datatype), each.shape, each.data) for name, each in outputs.items()}
        own = Placement(*((image.width, image.height),) * 2, (0, 0))
        try:
            reading = reading_of(declared, image.width, image.height)
            found, doubt = detect(reading, raw, own, usual), doubt_of(reading, raw)
        except DetectionError as error:
            faults = [str(error)]
        else:
            number = int(found.classes.max(initial=-1))
            if number >= len(declared.labels):
                faults = [f"a box is of class {number}, counted from 0, and there are {len(declared.labels)} labels"]
    if faults:
        text = tuple(f"detection: {fault}" for fault in faults)
        raise UsageFault("This cannot be published as it is: a trial request was answered", errors=text)
    return doubt and f"detection: {doubt}"


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
