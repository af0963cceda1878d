"""`registry publish`: the command line as a request, and what is said of it on the way and at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from registry.cli.catalogue.manifest_text import image_text, network_text, requirement_text, tensor_row
from registry.cli.catalogue.publish_options import (
    AliasOption,
    BatchingOption,
    CardOption,
    CompareWithOption,
    DryRunOption,
    EntryPointOption,
    FormatOption,
    GoldenFromOption,
    GoldenInputsOption,
    GoldenOfOption,
    GoldenOption,
    GoldenRandomOption,
    InputOption,
    LabelOption,
    LicenceOption,
    MaxBatchOption,
    ModelFile,
    NetworkArgOption,
    NetworkOption,
    OutputOption,
    SigningKeyOption,
    Source,
    TargetOption,
    ToleranceOption,
    VariantOption,
    VersionOption,
    architecture,
    batching_section,
    tensor_specs,
    tolerance_of,
)
from registry.cli.output import Output, end_well, meter
from registry.cli.session import Session, command, parse_labels
from registry.client.errors import ClientError, UsageFault
from registry.contracts.catalogue.batching import batching_text
from registry.contracts.catalogue.manifest import Manifest, Target
from registry.contracts.texts import size_text
from registry.inspection.facts import ModelFacts
from registry.publishing.plan import Observer, make_plan
from registry.publishing.publish import PublishResult
from registry.publishing.publish import publish as publish_plan
from registry.publishing.request import PublishRequest, PublishTable, VariantSection, load_publish_file

S = TypeVar("S", bound=PublishTable)


@command
def publish(
    session: Session,
    source: Source,
    file: ModelFile = None,
    *,
    version: VersionOption = None,
    target: TargetOption = None,
    variant: VariantOption = None,
    model_format: FormatOption = None,
    label: LabelOption = None,
    licence: LicenceOption = None,
    card: CardOption = None,
    alias: AliasOption = None,
    network: NetworkOption = None,
    network_arg: NetworkArgOption = None,
    entry_point: EntryPointOption = None,
    signing_key: SigningKeyOption = None,
    model_input: InputOption = None,
    model_output: OutputOption = None,
    batching: BatchingOption = None,
    max_batch: MaxBatchOption = None,
    golden: GoldenOption = None,
    golden_from: GoldenFromOption = None,
    golden_of: GoldenOfOption = None,
    compare_with: CompareWithOption = None,
    golden_inputs: GoldenInputsOption = None,
    golden_random: GoldenRandomOption = None,
    tolerance: ToleranceOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Publish a version of a model.

    The command reads format, inputs and outputs, opsets and external files from the model's file. It does not send
    blobs that the registry has. An interrupted upload resumes where it stopped, also when the command is started again.
    Publishing the same content again changes nothing. Different content under a published version is refused, with the
    differences (exit code 4).

    A version with several variants gets golden vectors, made by the first variant that runs here. Every variant that
    runs here is compared with them, the others later on their devices. If one exceeds the tolerance, nothing is
    published. If none runs here, the version gets no vectors unless you give them. A single variant gets them on
    request; otherwise it is tried once with random values. --golden-of takes the vectors of another version,
    --compare-with makes them with its model. See docs/parity.md.

    ```
    registry publish lenet lenet.onnx --version 1.0.0 --target cpu --alias stable
    registry publish lenet lenet.ckpt --version 1.0.0 --target cpu --network lenet5 --network-arg num_class=10
    registry publish lenet.toml                    # many variants, pictures, labels: see docs/publish.toml
    registry publish lenet.toml --version 1.0.1 --dry-run
    registry publish lenet.toml --golden-from onnx-cpu --golden-inputs digits.npz --tolerance absolute=1e-3
    registry publish lenet pruned.onnx --version 1.1.0 --target cpu --compare-with lenet@1.0.0 --tolerance absolute=0.1
    ```
    """
    end_well()
    if file is None:
        request = load_publish_file(_publish_file_path(source))
        of_variant = (target, variant, model_format, network, network_arg, entry_point, model_input, model_output)
        if any((*of_variant, batching, max_batch)):
            raise UsageFault("--target, --variant, --format, --network, --input and so on belong into its [[variant]]")
    else:
        if target is None:
            raise UsageFault("No target is given", hint=f"Give --target, one of: {', '.join(Target)}")
        section = VariantSection(
            file=file, target=target, name=variant, format=model_format,
            inputs=tensor_specs(model_input), outputs=tensor_specs(model_output),
            batching=batching_section(batching, max_batch),
            **architecture(network, entry_point, network_arg or []),
        )  # fmt: skip
        request = PublishRequest(model=source, variant=(section,))
    vectors = {
        "file": golden,
        "reference": golden_from,
        "of": golden_of,
        "compare_with": compare_with,
        "inputs": golden_inputs,
        "random": golden_random,
        "tolerance": None if tolerance is None else tolerance_of(tolerance),
    }
    said: dict[str, Any] = {
        "version": version,
        "licence": licence,
        "card": card,
        "signing_key": signing_key,
        "labels": request.labels | parse_labels(label or []),
        "golden": _over(request.golden, vectors),
        "aliases": tuple(dict.fromkeys([*request.aliases, *(alias or [])])),
    }
    publish_request(session, _over(request, said), dry_run=dry_run)


def publish_request(session: Session, request: PublishRequest, *, dry_run: bool, notes: Sequence[str] = ()) -> None:
    """Plans and publishes, and shows both. `notes`: what was said before, by whoever made the request."""
    for note in notes:
        session.out.warn(note)
    result = publish_plan(session.client, make_plan(request), observer=_observer(session.out), dry_run=dry_run)
    session.out.answer(_document(result), _summary(result))


def _over(section: S, said: dict[str, Any]) -> S:
    """What the publish file says, with what the command line says."""
    return section.model_copy(update={key: value for key, value in said.items() if value is not None})


def _publish_file_path(source: str) -> Path:
    path = Path(source)
    if path.suffix != ".toml":
        raise UsageFault(
            f"Which file of {source}?",
            hint=f"registry publish {source} model.onnx --version 1.0.0 --target cpu, or a publish file: NAME.toml",
        )
    if not path.is_file():
        raise ClientError(f"The publish file {path} does not exist", code="not_found")
    return path


def _observer(out: Output) -> Observer:
    """Shows a publishing on stderr."""
    return Observer(
        warn=out.warn,
        note=out.note,
        finding=lambda text: out.note(f"  {text}"),
        inspected=lambda manifest, facts: _show_inspected(out.note, manifest, facts),
        progress=lambda what, total: meter(what, total, quiet=out.as_json),
    )


def _show_inspected(note: Callable[[str], None], manifest: Manifest, facts: Sequence[ModelFacts]) -> None:
    note(f"{manifest.model}@{manifest.version}")
    for found, variant in zip(facts, manifest.variants, strict=True):
        by = f", by {found.producer}" if found.producer else ""
        needs = requirement_text(variant.requirements) or "nothing in particular"
        note(f"  variant {variant.name}: {variant.format} for {variant.target}, {size_text(variant.size)}{by}")
        note(f"    needs   {needs}")
        note(f"    files   {', '.join(file.path for file in variant.files)}")
        if found.parameters:
            total = sum(parameter.size for parameter in found.parameters)
            note(f"    holds   {len(found.parameters)} parameters, {total} bytes")
        if network := network_text(variant):
            note(f"    network {network}")
        note(f"    batches {batching_text(variant.batching)}")
        for kind, specs in (("input", variant.inputs), ("output", variant.outputs)):
            for spec in specs:
                note(f"    {kind:<7} {' '.join(tensor_row(spec))}")
    if manifest.image is not None:
        note(f"  pictures: {image_text(manifest)}")


def _document(result: PublishResult) -> dict[str, Any]:
    """For programs."""
    return {
        "model": result.manifest.model,
        "version": result.manifest.version,
        "digest": result.manifest.canonical_digest(),
        "created": result.created,
        "dry_run": result.dry_run,
        "sent_bytes": result.sent_bytes,
        "present_bytes": result.present_bytes,
        "aliases": result.aliases,
        "warnings": result.warnings,
        "manifest": result.manifest,
    }


def _summary(result: PublishResult) -> str:
    name = f"{result.manifest.model}@{result.manifest.version}"
    digest = result.manifest.canonical_digest()
    aliases = f" Aliases: {', '.join(result.aliases)}." if result.aliases else ""
    sent, present = size_text(result.sent_bytes), size_text(result.present_bytes)
    if result.dry_run:
        return f"Dry run: {name} ({digest}) would send {sent}; {present} are in the registry. Nothing was changed."
    if not result.created:
        return f"{name} is published with the same content already ({digest}); nothing to do.{aliases}"
    return f"Published {name} ({digest}): {sent} sent, {present} were there.{aliases}"
