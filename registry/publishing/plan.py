"""From a model file or a publish file to what will be published: inspected variants, then, hashed, a manifest.

Two steps, because inspection takes milliseconds and shows mistakes before gigabytes are hashed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from registry.cli.catalogue.batching_options import decided
from registry.client.errors import ClientError, UsageFault
from registry.client.local_files import LocalFile
from registry.contracts.catalogue.batching import Batching
from registry.contracts.catalogue.classes import scores_of
from registry.contracts.catalogue.entry_points import EntryCode
from registry.contracts.catalogue.manifest import (
    Classification,
    FileRef,
    ImageInput,
    Manifest,
    Requirements,
    Variant,
)
from registry.core.publish_faults import publish_faults
from registry.inspection.external_data import checked_size, plain_path
from registry.inspection.facts import InspectionError, ModelFacts
from registry.inspection.folders import folder_kind
from registry.publishing.checkpoint_facts import like_siblings, network_of
from registry.publishing.entry_function import require_function
from registry.publishing.request import PublishFile, RequirementsSection, VariantSection, faults
from registry.publishing.signing import Signer, load_signer
from registry.publishing.variant_facts import variant_facts

MAX_CARD_BYTES = 1 << 20


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
    module: str = ""
    """The entry point's path inside the artifact."""

    @property
    def requirements(self) -> Requirements:
        """What the file says and what the publisher adds."""
        given: RequirementsSection = self.section.requirements
        return self.facts.requirements.model_copy(
            update={
                "os": given.os,
                "arch": given.arch,
                "memory_bytes": given.memory_bytes,
                "disk_bytes": given.disk_bytes,
            }
        )


@dataclass(frozen=True)
class Plan:
    """One version before its files are hashed."""

    source: PublishFile
    version: str
    variants: tuple[PlannedVariant, ...]
    warnings: tuple[str, ...] = field(default=())
    signer: Signer | None = None
    """Where a variant has an entry point."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file that has to be hashed, once."""
        files = [path for variant in self.variants for path in variant.files.values()]
        return tuple(dict.fromkeys([*files, *([self.source.card] if self.source.card else [])]))


def make_plan(source: PublishFile) -> Plan:
    """Inspect every variant's files.

    Raises:
        InspectionError: a file cannot be published.
        UsageFault: what was given and what the files say do not go together.
    """
    if source.version is None:
        raise UsageFault("Which version is it?", hint="Give --version 1.0.0, or `version` in the publish file")
    signer = _signer(source)
    variants = _like_siblings(tuple(_plan_variant(section) for section in source.variant))
    names = [variant.name for variant in variants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageFault(f"Two variants are called {twice[0]!r}", hint="Give each [[variant]] a `name` of its own")
    if source.card is not None:
        if not source.card.is_file():
            raise UsageFault(f"The model card {source.card} is not there")
        if source.card.stat().st_size > MAX_CARD_BYTES:
            raise UsageFault(f"The model card {source.card} is over {MAX_CARD_BYTES} bytes")
    told = [(variant.name, text) for variant in variants for text in (*variant.facts.warnings, variant.warning)]
    warnings = tuple(f"{name}: {text}" for name, text in told if text)
    return Plan(source, source.version, variants, warnings + _softmax_warnings(source, variants[0].facts), signer)


def build_manifest(plan: Plan, find: Callable[[Path], LocalFile]) -> Manifest:
    """The manifest of a plan whose files are hashed.

    Raises:
        UsageFault: a name or value breaks a rule of the registry; each fault is named.
    """
    source = plan.source
    try:
        variants = tuple(_signed(_variant(planned, find), planned, plan) for planned in plan.variants)
        manifest = Manifest(
            model=source.model,
            version=plan.version,
            variants=variants,
            image=None if source.image is None else ImageInput.model_validate(source.image.model_dump()),
            classification=(
                None
                if source.classification is None
                else Classification.model_validate(source.classification.model_dump())
            ),
            labels=source.labels,
            licence=source.licence,
            card=None if source.card is None else _reference(artifact_name(source.card), find(source.card)),
        )
    except ValidationError as error:
        raise UsageFault("This cannot be published as it is", errors=faults(error)) from error
    found = (*publish_faults(manifest), *_softmax_faults(source, plan.variants[0].facts))
    if found:
        raise UsageFault("This cannot be published as it is", errors=found)
    return manifest


def _plan_variant(section: VariantSection) -> PlannedVariant:
    if section.file.is_dir():
        raise InspectionError(f"{section.file} is {folder_kind(section.file)}")
    if not section.file.is_file():
        raise ClientError(f"{section.file} is not there, or not a file", code="not_found")
    facts = variant_facts(section)
    beside = {plain_path(name): section.file.parent / name for name in (*facts.companions, *section.files)}
    for name in section.files:
        checked_size(section.file.parent, plain_path(name), "the publish file")
    entry = artifact_name(section.file)
    while entry in beside:  # renamed, it would take the place of a file that the model refers to
        entry = f"model-{entry}"[:255]
    files = {entry: section.file, **beside}
    module = _add_module(section, files)
    name = section.name or f"{facts.format}-{section.target}"
    return PlannedVariant(name, facts, section, entry, files, *decided(section.batching, facts), module)


def _add_module(section: VariantSection, files: dict[str, Path]) -> str:
    """The entry point's name among the files; empty: there is none."""
    if section.entry_point is None:
        return ""
    path = section.entry_point.module
    name = artifact_name(path)
    if not path.is_file():
        raise ClientError(f"{path} is not there, or not a file", code="not_found")
    if name in files:
        raise UsageFault(f"The entry point {path} has the name of another file of the variant")
    require_function(path, section.entry_point.function)
    files[name] = path
    return name


def _signer(source: PublishFile) -> Signer | None:
    """Raises ClientError, UsageFault: no key, or none that can be used. Before anything is hashed."""
    wanted = any(section.entry_point is not None for section in source.variant)
    if wanted and source.signing_key is None:
        raise UsageFault(
            "An entry point is published only when it is signed",
            hint="Give --signing-key FILE, or `signing_key` in the publish file; registry key new FILE makes one",
        )
    if source.signing_key is not None and not wanted:
        raise UsageFault("There is a signing key, and no entry point to sign", hint="--entry-point FILE.py:FUNCTION")
    return None if source.signing_key is None else load_signer(source.signing_key)


def _signed(variant: Variant, planned: PlannedVariant, plan: Plan) -> Variant:
    section = planned.section.entry_point
    if section is None or plan.signer is None:
        return variant
    code = EntryCode(module=planned.module, function=section.function, arguments=section.arguments)
    return plan.signer.signed(plan.source.model, plan.version, variant, code)


def _like_siblings(variants: tuple[PlannedVariant, ...]) -> tuple[PlannedVariant, ...]:
    """Checkpoints have no names of their own for what goes in and comes out: a sibling's file has."""
    siblings = [variant.facts for variant in variants if variant.section.network is None]
    return tuple(replace(v, facts=like_siblings(v.facts, v.section, siblings)) for v in variants)


def _variant(planned: PlannedVariant, find: Callable[[Path], LocalFile]) -> Variant:
    return Variant(
        name=planned.name,
        format=planned.facts.format,
        target=planned.section.target,
        entry=planned.entry,
        files=tuple(_reference(name, find(path)) for name, path in planned.files.items()),
        inputs=planned.facts.inputs,
        optional_inputs=planned.facts.optional_inputs,
        outputs=planned.facts.outputs,
        requirements=planned.requirements,
        network=network_of(planned.section),
        batching=planned.batching,
    )


def _reference(name: str, file: LocalFile) -> FileRef:
    return FileRef(path=name, digest=file.digest, size=file.size)


def artifact_name(path: Path) -> str:
    """The model file's name inside the artifact: spaces, accents and the like become `-`, which agents of any age take.
    Files that it refers to keep their names, which stand in the model."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", path.name).lstrip(".+")[:255] or "file"


def _softmax_faults(source: PublishFile, facts: ModelFacts) -> tuple[str, ...]:
    """One number for each item is read as a logit or as a probability: another label, so the publisher says which."""
    declared = source.classification
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


def _softmax_warnings(source: PublishFile, facts: ModelFacts) -> tuple[str, ...]:
    declared = source.classification
    last = facts.last_operators.get(declared.output, "") if declared is not None else ""
    if declared is None or not declared.softmax or last not in ("Softmax", "Sigmoid"):
        return ()
    return (f"the model ends in {last} itself, and [classification] asks for softmax once more: softmax = false",)
