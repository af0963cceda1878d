"""From a request to a plan: the variants' files inspected, and what follows from them and the request decided.

Inspection takes milliseconds, and shows mistakes before gigabytes are hashed. Once the files of a plan are hashed,
`build_manifest` makes its manifest. An `Observer` is told what a publishing does on its way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from registry.client.errors import ClientError, UsageFault
from registry.client.transfers import LocalFile, ignore
from registry.contracts.catalogue.batching import Batching
from registry.contracts.catalogue.classes import scores_of
from registry.contracts.catalogue.entry_points import EntryCode
from registry.contracts.catalogue.manifest import Classification, FileRef, Manifest, Variant
from registry.core.publish_checks import publish_faults
from registry.inspection.detect import folder_kind
from registry.inspection.external_data import checked_size, plain_path
from registry.inspection.facts import InspectionError, ModelFacts
from registry.publishing.detectors import detection_of, resemblance
from registry.publishing.request import EntryPointSection, GoldenSection, PublishRequest, VariantSection, faults
from registry.publishing.signing import Signer, load_signer, require_function
from registry.publishing.variant_facts import Inspected, decided, like_siblings, variant_facts

MAX_CARD_BYTES = 1 << 20
_GOLDEN_OPTIONS = {
    "file": "--golden",
    "of": "--golden-of",
    "compare_with": "--compare-with",
    "reference": "--golden-from",
    "inputs": "--golden-inputs",
    "random": "--golden-random",
}
"""How the command line calls what `[golden]` says."""


@dataclass(frozen=True)
class Observer:
    """Who is told of what; nothing is shown where nobody is named. The thread that publishes calls them."""

    warn: Callable[[str], None] = ignore
    """Something that may surprise later; the result has it, too."""
    note: Callable[[str], None] = ignore
    """An upload or a download was cut and goes on."""
    finding: Callable[[str], None] = ignore
    """What a variant showed when it was run here, or why it was not."""
    inspected: Callable[[Manifest, Sequence[ModelFacts]], None] = ignore
    """The files are read: what would be published, but for golden vectors and measurements; facts of each variant."""
    progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]] = lambda _what, _total: nullcontext(
        ignore
    )
    """Entered while so many bytes are read, sent or fetched: `sending lenet.onnx`, 246000. It gives what is told the
    position in them, again and again; the position may fall, when something is sent again."""


@dataclass(frozen=True)
class PlannedVariant:
    """One variant before its files are hashed."""

    name: str
    facts: ModelFacts
    section: VariantSection
    entry: str
    """The model file's path inside the artifact."""
    files: dict[str, Path]
    """Path inside the artifact to the file here."""
    batching: Batching | None = None
    warning: str = ""


@dataclass(frozen=True)
class PublishPlan:
    """One version before its files are hashed: what was asked for, and what the files say of themselves."""

    request: PublishRequest
    version: str
    variants: tuple[PlannedVariant, ...]
    warnings: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    """Every file that has to be hashed, once."""
    signer: Signer | None = None
    """Where a variant has an entry point."""


def make_plan(request: PublishRequest, inspected: Inspected | None = None) -> PublishPlan:
    """Inspect every variant's files, each once. Nothing is sent, and no registry is asked.

    Args:
        request: What is to be published.
        inspected: ONNX files that whoever made the request has inspected.

    Raises:
        InspectionError: a file cannot be published.
        ClientError: a file is not there; UsageFault: what was asked for, and what the files say, do not go together.
    """
    version = _checked(request)
    signer = _signer(request.variant, request.signing_key)
    known = dict(inspected or {})
    variants = tuple(_plan_variant(section, known) for section in request.variant)
    siblings = [variant.facts for variant in variants if variant.section.network is None]
    # Checkpoints have no names of their own for what goes in and comes out: a sibling's file has.
    variants = tuple(replace(v, facts=like_siblings(v.facts, v.section, siblings)) for v in variants)
    names = [variant.name for variant in variants]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageFault(f"Two variants are called {twice[0]!r}", hint="Give each [[variant]] a `name` of its own")
    if request.card is not None:
        if not request.card.is_file():
            raise UsageFault(f"The model card {request.card} does not exist")
        if request.card.stat().st_size > MAX_CARD_BYTES:
            raise UsageFault(f"The model card {request.card} is over {MAX_CARD_BYTES} bytes")
    told = [(variant.name, text) for variant in variants for text in (*variant.facts.warnings, variant.warning)]
    warnings = tuple(f"{name}: {text}" for name, text in told if text)
    warnings += _softmax_warnings(request.classification, variants[0].facts)
    if request.detection is None and (like := resemblance(variants[0].facts)):
        warnings += (like,)
    files = [*(path for variant in variants for path in variant.files.values()), request.card]
    paths = tuple(dict.fromkeys(path for path in files if path is not None))
    return PublishPlan(request, version, variants, warnings, paths, signer)


def _checked(request: PublishRequest) -> str:
    """The version's name. Raises UsageFault: the request says too little, or contradicts itself."""
    if unknown := request.unknown_fields():
        raise UsageFault("The request has unknown fields", errors=unknown)
    if request.version is None:
        raise UsageFault("Which version is it?", hint="Give --version 1.0.0, or `version` in the publish file")
    if request.version in request.aliases:
        raise UsageFault(f"{request.version!r} is the version's own name; an alias needs another one")
    _require_one_source(request.golden)
    return request.version


def _require_one_source(golden: GoldenSection) -> None:
    """Golden vectors are given, another version's, or made here by one model. Raises UsageFault."""
    said = [option for name, option in _GOLDEN_OPTIONS.items() if getattr(golden, name) is not None]
    if (golden.file or golden.of) and len(said) > 1:
        raise UsageFault(
            f"{' and '.join(said)} cannot be combined: golden vectors come from one source",
            hint="Golden vectors are given (--golden), another version's (--golden-of), or made here (--golden-from, "
            "--compare-with, --golden-inputs, --golden-random); [golden] in a publish file counts like the options",
        )
    if golden.reference and golden.compare_with:
        raise UsageFault("Golden vectors are made by a variant (--golden-from) or by another version (--compare-with)")
    if golden.compare_with and golden.random == 0:
        raise UsageFault("--golden-random 0 says that there are none, and --compare-with makes some")
    if golden.inputs and golden.random is not None:
        raise UsageFault("The inputs of golden vectors are either given (--golden-inputs) or random (--golden-random)")


def _plan_variant(section: VariantSection, inspected: Inspected) -> PlannedVariant:
    if section.file.is_dir():
        raise InspectionError(f"{section.file} is {folder_kind(section.file)}")
    if not section.file.is_file():
        raise ClientError(f"{section.file} does not exist, or is not a file", code="not_found", hint="Check the path.")
    facts = variant_facts(section, inspected)
    for name in section.files:
        checked_size(section.file.parent, plain_path(name), "the publish file", section.links_within)
    files = {plain_path(name): section.file.parent / name for name in (*facts.companions, *section.files)}
    entry = artifact_name(section.file)
    while entry in files:  # renamed, it would take the place of a file that the model refers to
        entry = f"model-{entry}"[:255]
    files = {entry: section.file, **files}
    if section.entry_point is not None:
        _add_module(section.entry_point, files)
    name = section.name or f"{facts.format}-{section.target}"
    return PlannedVariant(name, facts, section, entry, files, *decided(section.batching, facts))


def _add_module(code: EntryPointSection, files: dict[str, Path]) -> None:
    path, name = code.module, artifact_name(code.module)
    if not path.is_file():
        raise ClientError(f"{path} does not exist, or is not a file", code="not_found", hint="Check the path.")
    if name in files:
        raise UsageFault(f"The entry point {path} has the name of another file of the variant")
    require_function(path, code.function)
    files[name] = path


def _signer(sections: Sequence[VariantSection], key: Path | None) -> Signer | None:
    """Raises ClientError, UsageFault: no key, or none that can be used. Before anything is hashed."""
    wanted = any(section.entry_point is not None for section in sections)
    if wanted and key is None:
        raise UsageFault(
            "An entry point is published only when it is signed",
            hint="Give --signing-key FILE, or `signing_key` in the publish file; registry key new FILE makes one",
        )
    if key is not None and not wanted:
        raise UsageFault("There is a signing key, and no entry point to sign", hint="--entry-point FILE.py:FUNCTION")
    return None if key is None else load_signer(key)


def artifact_name(path: Path) -> str:
    """The model file's name inside the artifact: spaces, accents and the like become `-`, which agents of any age take.
    Files that it refers to keep their names, which stand in the model."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", path.name).lstrip(".+")[:255] or "file"


def _softmax_warnings(declared: Classification | None, facts: ModelFacts) -> tuple[str, ...]:
    last = facts.last_operators.get(declared.output, "") if declared is not None else ""
    if declared is None or not declared.softmax or last not in ("Softmax", "Sigmoid"):
        return ()
    return (f"the model ends in {last} itself, and [classification] asks for softmax once more: softmax = false",)


def build_manifest(plan: PublishPlan, files: Mapping[Path, LocalFile]) -> Manifest:
    """The manifest of a plan whose files are hashed.

    Raises:
        UsageFault: a name or value breaks a rule of the registry; each fault is named.
    """
    request, facts = plan.request, plan.variants[0].facts
    detection = None if request.detection is None else detection_of(request.detection, facts)
    try:
        manifest = Manifest(
            model=request.model,
            version=plan.version,
            variants=tuple(_variant(planned, files, plan) for planned in plan.variants),
            image=request.image,
            classification=request.classification,
            detection=detection,
            labels=request.labels,
            licence=request.licence,
            origin=request.origin,
            card=None if request.card is None else _reference(artifact_name(request.card), files[request.card]),
        )
    except ValidationError as error:
        raise UsageFault("This cannot be published as it is", errors=faults(error)) from error
    found = (*publish_faults(manifest), *_softmax_faults(request.classification, facts))
    if found:
        raise UsageFault("This cannot be published as it is", errors=found)
    return manifest


def _variant(planned: PlannedVariant, files: Mapping[Path, LocalFile], plan: PublishPlan) -> Variant:
    variant = Variant(
        name=planned.name,
        format=planned.facts.format,
        target=planned.section.target,
        entry=planned.entry,
        files=tuple(_reference(name, files[path]) for name, path in planned.files.items()),
        inputs=planned.facts.inputs,
        optional_inputs=planned.facts.optional_inputs,
        outputs=planned.facts.outputs,
        requirements=planned.facts.requirements,
        network=planned.section.network,
        batching=planned.batching,
    )
    code = planned.section.entry_point
    if code is None or plan.signer is None:
        return variant
    said = EntryCode(module=artifact_name(code.module), function=code.function, arguments=code.arguments)
    return plan.signer.signed(plan.request.model, plan.version, variant, said)


def _reference(name: str, file: LocalFile) -> FileRef:
    return FileRef(path=name, digest=file.digest, size=file.size)


def _softmax_faults(declared: Classification | None, facts: ModelFacts) -> tuple[str, ...]:
    """One number for each item is read as a logit or as a probability: another label, so the publisher says which."""
    spec = next((spec for spec in facts.outputs if declared is not None and spec.name == declared.output), None)
    if declared is None or spec is None:
        return ()
    scores = scores_of(spec.shape, len(declared.labels))
    if scores is None or scores.each != 1:
        return ()
    who = f"classification: output {spec.name!r} has one number for each item"
    if "softmax" not in declared.model_fields_set:
        return (f"{who}: say softmax = true where it is a logit, softmax = false where it is a probability",)
    if declared.softmax and facts.last_operators.get(spec.name) == "Sigmoid":
        return (f"{who}, a probability by the model's own Sigmoid: softmax = false",)
    return ()
