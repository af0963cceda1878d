"""`registry publish`: the command line as a request, and what is said of it on the way and at the end."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from pydantic import ValidationError

from registry.cli.catalogue.manifest_text import (
    classes_text,
    detection_text,
    image_text,
    network_text,
    requirement_text,
    tensor_row,
)
from registry.cli.output import Output, end_well, meter
from registry.cli.session import Session, command, parse_labels, parse_pairs
from registry.client.errors import ClientError, UsageFault
from registry.contracts.catalogue.batching import MAX_JOINED, batching_text
from registry.contracts.catalogue.manifest import (
    MAX_GOLDEN_CASES,
    Format,
    Manifest,
    Network,
    Target,
    TensorSpec,
    Tolerance,
)
from registry.contracts.catalogue.networks import Value, networks
from registry.contracts.tensors import Datatype
from registry.contracts.texts import size_text
from registry.inspection.facts import ModelFacts
from registry.publishing.plan import Observer, make_plan
from registry.publishing.publish import PublishResult
from registry.publishing.publish import publish as publish_plan
from registry.publishing.request import (
    BatchingSection,
    EntryPointSection,
    PublishRequest,
    PublishTable,
    VariantSection,
    for_targets,
    load_publish_file,
)
from registry.publishing.variant_facts import Inspected

LabelOption = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="May be repeated.")]
LicenceOption = Annotated[str | None, typer.Option("--licence", "--license", help="An SPDX expression.")]
CardOption = Annotated[Path | None, typer.Option("--card", metavar="README.md", help="The model card, Markdown.")]
AliasOption = Annotated[
    list[str] | None, typer.Option("--alias", help="Point this alias at the version; may be repeated.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Inspect and compare; change nothing.")]
NETWORK_PANEL = "Checkpoints: what the weights are filled into"
BATCHING_PANEL = "Joining requests (docs/batching.md)"
GOLDEN_PANEL = "Golden vectors: what every variant must answer"
BatchingChoice = Literal["auto", "independent", "off"]
"""What the publisher says of the items of one run."""
S = TypeVar("S", bound=PublishTable)


@command
def publish(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="MODEL|FILE.toml", help="The model's name, or a publish file.")],
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="The model's file, after a name.")] = None,
    *,
    version: Annotated[
        str | None, typer.Option("--version", help="The version's name; immutable once published.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="TARGET[,TARGET]",
            help=f"The kind of platform it is made for: {', '.join(Target)}. Several: a variant for each, of one file.",
        ),
    ] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", help="The variant's name. Default: FORMAT-TARGET.")
    ] = None,
    model_format: Annotated[
        Format | None, typer.Option("--format", help="The format. Default: by the file's content.")
    ] = None,
    label: LabelOption = None,
    licence: LicenceOption = None,
    card: CardOption = None,
    alias: AliasOption = None,
    network: Annotated[
        str | None,
        typer.Option("--network", help=f"One of: {', '.join(networks())}.", rich_help_panel=NETWORK_PANEL),
    ] = None,
    network_arg: Annotated[
        list[str] | None,
        typer.Option(
            "--network-arg",
            metavar="NAME=VALUE",
            help="An argument of the network's constructor or the entry point's function; may be repeated.",
            rich_help_panel=NETWORK_PANEL,
        ),
    ] = None,
    entry_point: Annotated[
        str | None,
        typer.Option(
            "--entry-point",
            metavar="FILE.py:FUNCTION",
            help="Code that builds the network, instead of --network. It runs only on devices that trust its signer.",
            rich_help_panel=NETWORK_PANEL,
        ),
    ] = None,
    signing_key: Annotated[
        Path | None,
        typer.Option(
            "--signing-key",
            metavar="FILE",
            help="Signs the entry points; see `registry key new`.",
            rich_help_panel=NETWORK_PANEL,
        ),
    ] = None,
    model_input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME:TYPE:DIMS",
            help="An input: x:FP32:-1,3,32,32. Default: those of the other variants or of the network.",
            rich_help_panel=NETWORK_PANEL,
        ),
    ] = None,
    model_output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            metavar="NAME:TYPE:DIMS",
            help="An output, as --input. An entry point needs both.",
            rich_help_panel=NETWORK_PANEL,
        ),
    ] = None,
    batching: Annotated[
        BatchingChoice | None,
        typer.Option(
            "--batching",
            help="auto: as an ONNX graph proves. independent: you declare that items do not influence each other. "
            "off: one request at a time.",
            rich_help_panel=BATCHING_PANEL,
        ),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            "--max-batch",
            min=1,
            max=MAX_JOINED,
            help="The largest number of requests in one run. Default: the best on each device.",
            rich_help_panel=BATCHING_PANEL,
        ),
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option(
            "--golden",
            metavar="FILE",
            help="Use these golden vectors: .safetensors or .npz.",
            rich_help_panel=GOLDEN_PANEL,
        ),
    ] = None,
    golden_from: Annotated[
        str | None,
        typer.Option(
            "--golden-from",
            metavar="VARIANT",
            help="Make them with this variant. Default: the first that runs here.",
            rich_help_panel=GOLDEN_PANEL,
        ),
    ] = None,
    golden_of: Annotated[
        str | None,
        typer.Option(
            "--golden-of",
            metavar="MODEL@VERSION",
            help="Use the golden vectors of this version.",
            rich_help_panel=GOLDEN_PANEL,
        ),
    ] = None,
    compare_with: Annotated[
        str | None,
        typer.Option(
            "--compare-with",
            metavar="MODEL@VERSION",
            help="Make them here with this version's model.",
            rich_help_panel=GOLDEN_PANEL,
        ),
    ] = None,
    golden_inputs: Annotated[
        Path | None,
        typer.Option(
            "--golden-inputs", metavar="FILE", help="Make them from these inputs.", rich_help_panel=GOLDEN_PANEL
        ),
    ] = None,
    golden_random: Annotated[
        int | None,
        typer.Option(
            "--golden-random",
            metavar="N",
            min=0,
            max=MAX_GOLDEN_CASES,
            help="Make them from N random inputs. 0: no vectors, and no trial run.",
            rich_help_panel=GOLDEN_PANEL,
        ),
    ] = None,
    tolerance: Annotated[
        str | None,
        typer.Option("--tolerance", metavar="absolute=,relative=,top1=", rich_help_panel=GOLDEN_PANEL),
    ] = None,
    key: Annotated[
        list[Path] | None,
        typer.Option(
            "--key",
            metavar="FILE",
            help="Sign the version with this key, of a model whose versions are signed by keys of its own; may be "
            "repeated. See docs/trust.md.",
        ),
    ] = None,
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
    registry publish lenet lenet.ckpt --version 1 --target cpu,gpu,ascend910 --network lenet5 --network-arg num_class=10
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
        targets = parse_targets(target)
        if not targets:
            raise UsageFault("No target is given", hint=f"Give --target, one of: {', '.join(Target)}")
        section = VariantSection(
            file=file, target=targets[0], name=variant, format=model_format,
            inputs=tensor_specs(model_input), outputs=tensor_specs(model_output),
            batching=batching_section(batching, max_batch),
            **architecture(network, entry_point, network_arg or []),
        )  # fmt: skip
        request = PublishRequest(model=source, variant=for_targets(section, targets))
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
    publish_request(session, _over(request, said), dry_run=dry_run, keys=key or ())


def parse_targets(said: str | None) -> tuple[Target, ...]:
    """`cpu,gpu` as targets; none where nothing is said. Raises UsageFault."""
    names = [] if said is None else [name.strip() for name in said.split(",")]
    if unknown := [name for name in names if name not in set(Target)]:
        hint = f"One or more of {', '.join(Target)}, with commas between them"
        raise UsageFault(f"--target {unknown[0]!r} is no target", hint=hint)
    return tuple(Target(name) for name in dict.fromkeys(names))


def publish_request(
    session: Session,
    request: PublishRequest,
    *,
    dry_run: bool,
    notes: Sequence[str] = (),
    inspected: Inspected | None = None,
    keys: Sequence[Path] = (),
) -> None:
    """Plans and publishes, and shows both. `notes`: what was said before, by whoever made the request; `inspected`: as
    of `make_plan`; `keys`: files of the publisher's own keys."""
    sign = _signing_with(session, keys) if keys else None
    for note in notes:
        session.out.warn(note)
    result = publish_plan(
        session.client,
        make_plan(request, inspected),
        observer=_observer(session.out),
        dry_run=dry_run,
        sign=sign,
    )
    result = replace(result, warnings=(*notes, *result.warnings))
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
        raise ClientError(f"The publish file {path} does not exist", code="not_found", hint="Check the path.")
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
        by = f", written by {found.producer}" if found.producer else ""
        needs = requirement_text(variant.requirements) or "nothing in particular"
        note(f"  variant {variant.name}: {variant.format} for {variant.target}, {size_text(variant.size)}{by}")
        note(f"    needs   {needs}")
        note(f"    files   {', '.join(file.path for file in variant.files)}")
        if found.described is not None:
            note(f"    says    {found.described.text}")
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
    if manifest.classification is not None:
        note(f"  classes  {classes_text(manifest)}")
    if manifest.detection is not None:
        note(f"  boxes    {detection_text(manifest)}")


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
    if result.sent_bytes is None or result.present_bytes is None:
        return f"Dry run: {name} ({digest}); what would be sent is not known. Nothing was changed."
    sent, present = size_text(result.sent_bytes), size_text(result.present_bytes)
    if result.dry_run:
        return f"Dry run: {name} ({digest}) would send {sent}; {present} are in the registry. Nothing was changed."
    if not result.created:
        return f"{name} is published with the same content already ({digest}); nothing to do.{aliases}"
    return f"Published {name} ({digest}): {sent} sent, {present} were there.{aliases}"


def architecture(name: str | None, entry_point: str | None, pairs: list[str]) -> dict[str, Any]:
    """The options as a publish file would say them: `network` or `entry_point`, or nothing. Raises UsageFault."""
    if name is not None and entry_point is not None:
        raise UsageFault("--network and --entry-point: one of them builds the network")
    if name is not None:
        return {"network": Network(name=name, arguments=_arguments(pairs))}
    if entry_point is not None:
        module, _, function = entry_point.rpartition(":")
        if not module.endswith(".py") or not function:
            raise UsageFault(
                f"{entry_point!r} is not of the form FILE.py:FUNCTION", hint="--entry-point network.py:create"
            )
        section = EntryPointSection(module=Path(module), function=function, arguments=_arguments(pairs))
        return {"entry_point": section}
    if pairs:
        raise UsageFault("--network-arg without --network", hint=f"Networks: {', '.join(networks())}")
    return {}


def _arguments(pairs: list[str]) -> dict[str, Value]:
    found = parse_pairs(pairs, "--network-arg", "NAME=VALUE", hint="--network-arg num_class=10")
    return {key: _value(text) for key, text in found.items()}


def tensor_specs(texts: list[str] | None) -> tuple[TensorSpec, ...]:
    """`x:FP32:-1,1,32,32` each. Raises UsageFault."""
    return tuple(_tensor(text) for text in texts or ())


def _tensor(text: str) -> TensorSpec:
    name, _, rest = text.rpartition(":")
    name, _, datatype = name.rpartition(":")
    dims = rest.split(",")
    if not name or datatype not in list(Datatype) or not all(re.fullmatch(r"-1|[0-9]{1,9}", dim) for dim in dims):
        raise UsageFault(f"{text!r} is not of the form NAME:TYPE:DIMS", hint="--input x:FP32:-1,1,32,32 (-1: any size)")
    values: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [int(dim) for dim in dims]}
    return TensorSpec.model_validate(values)


def _value(text: str) -> Value:
    """`true` and `false`, whole and other numbers; everything else is text."""
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    if re.fullmatch(r"-?[0-9]{1,18}\.[0-9]{1,18}", text):
        return float(text)
    return text


def batching_section(choice: BatchingChoice | None, max_batch: int | None) -> BatchingSection:
    """The options as a publish file says them."""
    said = None if choice in (None, "auto") else choice == "independent"
    return BatchingSection(independent=said, max_size=max_batch)


def tolerance_of(text: str) -> Tolerance:
    """`absolute=1e-3,relative=1e-2,top1=0.99`, each at most once. Raises UsageFault."""
    names = {"absolute": "absolute", "relative": "relative", "top1": "top1_agreement"}
    values: dict[str, float] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        try:
            values[names[key.strip()]] = float(value)
        except (KeyError, ValueError):
            raise UsageFault(
                f"--tolerance has {part!r}", hint="--tolerance absolute=1e-4,relative=1e-3,top1=1"
            ) from None
    try:
        return Tolerance(**values)
    except ValidationError as error:
        faults = tuple(f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors())
        raise UsageFault(f"--tolerance {text!r} is out of range", errors=faults) from None


def _signing_with(session: Session, keys: Sequence[Path]) -> Callable[[Manifest], object]:
    """Has a publisher's own keys sign a version. Raises ClientError: one of them cannot be used."""
    from registry.publishing.model_signing import load_model_key, sign_version  # noqa: PLC0415 - python-tuf: 0.1 s

    signers = [load_model_key(key) for key in keys]
    return lambda manifest: sign_version(session.client, manifest, signers, session.now())
