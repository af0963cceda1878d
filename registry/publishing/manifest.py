"""The manifest of a plan whose files are hashed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from registry.client.errors import UsageFault
from registry.client.local_files import LocalFile
from registry.contracts.catalogue.classes import scores_of
from registry.contracts.catalogue.entry_points import EntryCode
from registry.contracts.catalogue.manifest import Classification, FileRef, Manifest, Variant
from registry.core.publish_faults import publish_faults
from registry.inspection.facts import ModelFacts
from registry.publishing.plan import PlannedVariant, PublishPlan, artifact_name
from registry.publishing.request import faults


def build_manifest(plan: PublishPlan, files: Mapping[Path, LocalFile]) -> Manifest:
    """The manifest of a plan whose files are hashed.

    Raises:
        UsageFault: a name or value breaks a rule of the registry; each fault is named.
    """
    request = plan.request
    try:
        manifest = Manifest(
            model=request.model,
            version=plan.version,
            variants=tuple(_variant(planned, files, plan) for planned in plan.variants),
            image=request.image,
            classification=request.classification,
            labels=request.labels,
            licence=request.licence,
            card=None if request.card is None else _reference(artifact_name(request.card), files[request.card]),
        )
    except ValidationError as error:
        raise UsageFault("This cannot be published as it is", errors=faults(error)) from error
    found = (*publish_faults(manifest), *_softmax_faults(request.classification, plan.variants[0].facts))
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
