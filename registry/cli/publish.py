"""`registry publish`: inspect, hash, send what the registry lacks, then make the version visible in one step."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from registry.cli.alias import move
from registry.cli.failures import CliError, UnreachableError, UsageFault
from registry.cli.golden import declared, demand_as_asked, given_golden, measured
from registry.cli.golden_options import (
    GoldenFromOption,
    GoldenInputsOption,
    GoldenOption,
    GoldenRandomOption,
    ToleranceOption,
    over,
)
from registry.cli.local_files import LocalFile, hash_file
from registry.cli.models import fetch_manifest, image_text, requirement_text, tensor_row
from registry.cli.network_options import (
    EntryPointOption,
    InputOption,
    NetworkArgOption,
    NetworkOption,
    OutputOption,
    SigningKeyOption,
    architecture,
    network_text,
    tensor_sections,
)
from registry.cli.output import size_text
from registry.cli.plan import Plan, build_manifest, make_plan
from registry.cli.progress import meter
from registry.cli.publish_file import PublishFile, VariantSection, load_publish_file
from registry.cli.session import Session, command, parse_labels
from registry.cli.upload import upload
from registry.contracts.api.versions import PublishAnswer, VersionView
from registry.contracts.manifest import Format, Manifest, Target
from registry.contracts.paths import blob_path, version_path
from registry.core.differences import differences


@dataclass
class Outcome:
    """What a publishing did, as `--json` prints it."""

    manifest: Manifest
    created: bool = False
    sent_bytes: int = 0
    """Blobs that went over the wire."""
    present_bytes: int = 0
    """Blobs that the registry had."""
    dry_run: bool = False
    warnings: tuple[str, ...] = ()
    aliases: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "model": self.manifest.model,
            "version": self.manifest.version,
            "digest": self.manifest.canonical_digest(),
            "created": self.created,
            "dry_run": self.dry_run,
            "sent_bytes": self.sent_bytes,
            "present_bytes": self.present_bytes,
            "aliases": self.aliases,
            "warnings": list(self.warnings),
            "manifest": self.manifest,
        }


Source = Annotated[str, typer.Argument(metavar="MODEL|FILE.toml", help="The model's name, or a publish file.")]
ModelFile = Annotated[Path | None, typer.Argument(metavar="FILE", help="The model's file, after a name.")]
VersionOption = Annotated[str | None, typer.Option("--version", help="Its name; immutable once published.")]
TargetOption = Annotated[Target | None, typer.Option("--target", help="The kind of platform it is made for.")]
VariantOption = Annotated[str | None, typer.Option("--variant", help="The variant's name; else FORMAT-TARGET.")]
FormatOption = Annotated[Format | None, typer.Option("--format", help="Else by the file's content.")]
LabelOption = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="May be repeated.")]
LicenceOption = Annotated[str | None, typer.Option("--licence", "--license", help="An SPDX expression.")]
CardOption = Annotated[Path | None, typer.Option("--card", metavar="README.md", help="The model card, Markdown.")]
AliasOption = Annotated[list[str] | None, typer.Option("--alias", help="Point it here; may be repeated.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Inspect and compare, change nothing.")]


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
    golden: GoldenOption = None,
    golden_from: GoldenFromOption = None,
    golden_inputs: GoldenInputsOption = None,
    golden_random: GoldenRandomOption = None,
    tolerance: ToleranceOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Publish a version of a model.

    What the file knows is read from it: format, inputs and outputs, opsets, files beside it. A blob that the registry
    has is not sent; a cut upload goes on where it stopped, also when the command is started again. The same content
    again changes nothing; other content under a published version is refused, with the differences (exit code 4).

    A version with several variants that run here carries golden vectors: each variant is measured against them, and
    nothing is published when one is over the tolerance. See docs/parity.md.

    ```
    registry publish lenet lenet.onnx --version 1.0.0 --target cpu --alias stable
    registry publish lenet lenet.ckpt --version 1.0.0 --target cpu --network lenet5 --network-arg num_class=10
    registry publish lenet.toml                    # many variants, pictures, labels: see docs/publish.toml
    registry publish lenet.toml --version 1.0.1 --dry-run
    registry publish lenet.toml --golden-from onnx-cpu --golden-inputs digits.npz --tolerance absolute=1e-3
    ```
    """
    if file is None:
        described = load_publish_file(_publish_file_path(source))
        if any((target, variant, model_format, network, network_arg, entry_point, model_input, model_output)):
            raise UsageFault("--target, --variant, --format, --network, --input and so on belong into its [[variant]]")
    else:
        if target is None:
            raise UsageFault("What is it made for?", hint=f"Give --target, one of: {', '.join(Target)}")
        section = VariantSection(
            file=file, target=target, name=variant, format=model_format,
            inputs=tensor_sections(model_input), outputs=tensor_sections(model_output),
            **architecture(network, entry_point, network_arg or []),
        )  # fmt: skip
        described = PublishFile(model=source, variant=(section,))
    given: dict[str, Any] = {"version": version, "licence": licence, "card": card, "signing_key": signing_key}
    update = {key: value for key, value in given.items() if value is not None}
    update["labels"] = described.labels | parse_labels(label or [])
    said = {"file": golden, "reference": golden_from, "inputs": golden_inputs, "random": golden_random}
    update["golden"] = over(described.golden, said, tolerance)
    update["aliases"] = tuple(dict.fromkeys([*described.aliases, *(alias or [])]))
    outcome = _publish(session, make_plan(described.model_copy(update=update)), dry_run=dry_run)
    if session.out.as_json:
        session.out.document(outcome.document())
    else:
        session.out.say(_summary(outcome))


def _publish_file_path(source: str) -> Path:
    path = Path(source)
    if path.suffix != ".toml":
        raise UsageFault(
            f"Which file of {source}?",
            hint=f"registry publish {source} model.onnx --version 1.0.0 --target cpu, or a publish file: NAME.toml",
        )
    if not path.is_file():
        raise CliError(f"The publish file {path} is not there", code="not_found")
    return path


def _publish(session: Session, plan: Plan, *, dry_run: bool) -> Outcome:
    for warning in plan.warnings:
        session.out.warn(warning)
    files = _hash_all(session, plan)
    manifest = build_manifest(plan, files.__getitem__)
    if manifest.version in plan.source.aliases:
        raise UsageFault(f"{manifest.version!r} is the version's own name; an alias needs another one")
    _tell_findings(session, plan, manifest)
    with TemporaryDirectory(prefix="modelfleet-publish-") as folder:
        manifest, golden = given_golden(plan, manifest, Path(folder))
        published = _published(session, manifest, dry_run=dry_run)
        if published is None:
            manifest, golden = measured(session, plan, manifest, Path(folder))
        else:
            demand_as_asked(plan, published)
        outcome = Outcome(published or manifest, dry_run=dry_run, warnings=plan.warnings)
        if dry_run:
            _compare(session, outcome)
            return outcome
        if published is None:
            blobs = {file.digest: file for file in (*files.values(), *([golden] if golden else []))}
            _send_blobs(session, outcome, blobs)
            answer = session.client.change(
                "PUT", version_path(manifest.model, manifest.version), manifest, PublishAnswer, repeatable=True
            )
            outcome.created = answer.created
            outcome.warnings += answer.warnings
            for warning in answer.warnings:
                session.out.warn(warning)
    for name in plan.source.aliases:
        _point(session, manifest, name)
        outcome.aliases.append(name)
    return outcome


def _point(session: Session, manifest: Manifest, alias: str) -> None:
    try:
        move(session, manifest.model, alias, manifest.version)
    except CliError as error:
        done = f"{manifest.model}@{manifest.version} is published"
        error.what = f"{done}, but the alias {alias} was not set: {error.what}"
        raise


def _hash_all(session: Session, plan: Plan) -> dict[Path, LocalFile]:
    files: dict[Path, LocalFile] = {}
    for path in plan.paths:
        with meter(f"reading {path.name}", path.stat().st_size, quiet=session.out.as_json) as shown:
            files[path] = hash_file(path, shown.advance)
    return files


def _tell_findings(session: Session, plan: Plan, manifest: Manifest) -> None:
    note = session.out.note
    note(f"{manifest.model}@{manifest.version}")
    for planned, variant in zip(plan.variants, manifest.variants, strict=True):
        by = f", by {planned.facts.producer}" if planned.facts.producer else ""
        needs = requirement_text(variant.requirements) or "nothing in particular"
        note(f"  variant {variant.name}: {variant.format} for {variant.target}, {size_text(variant.size)}{by}")
        note(f"    needs   {needs}")
        note(f"    files   {', '.join(file.path for file in variant.files)}")
        if planned.facts.parameters:
            total = sum(parameter.size for parameter in planned.facts.parameters)
            note(f"    holds   {len(planned.facts.parameters)} parameters, {total} bytes")
        if network_text(variant):
            note(f"    network {network_text(variant)}")
        for kind, specs in (("input", variant.inputs), ("output", variant.outputs)):
            for spec in specs:
                note(f"    {kind:<7} {' '.join(tensor_row(spec))}")
    if manifest.image is not None:
        note(f"  pictures: {image_text(manifest)}")


def _published(session: Session, manifest: Manifest, *, dry_run: bool) -> Manifest | None:
    """The published version when it is there with the same content, None when it is not there.

    What was measured or made on the publisher's machine may differ: it does from run to run.

    Raises:
        CliError: it is there with other content.
    """
    path = version_path(manifest.model, manifest.version)
    try:
        view = session.client.find(path, VersionView)
    except UnreachableError as error:
        if not dry_run:
            raise
        session.out.warn(f"not compared with the registry: {error.what}")
        return None
    if view is None or view.version != manifest.version:  # an alias of that name
        return None
    theirs = fetch_manifest(session.client, view)
    there, offered = declared(theirs).to_json(), declared(manifest).to_json()
    if there == offered:
        return theirs
    raise CliError(
        f"{manifest.model}@{manifest.version} is published with other content, and a published version never changes",
        code="conflict",
        hint="Publish this as a new version: --version",
        errors=differences(there, offered),
    )


def _compare(session: Session, outcome: Outcome) -> None:
    """What publishing would send, as far as the registry answers."""
    try:
        for digest, size in outcome.manifest.blobs().items():
            if session.client.exists(blob_path(digest)):
                outcome.present_bytes += size
            else:
                outcome.sent_bytes += size
    except UnreachableError:
        outcome.sent_bytes = outcome.present_bytes = 0  # it was said before


def _send_blobs(session: Session, outcome: Outcome, files: dict[str, LocalFile]) -> None:
    for digest, file in files.items():
        if session.client.exists(blob_path(digest)):
            outcome.present_bytes += file.size
            continue
        with meter(f"sending {file.path.name}", file.size, quiet=session.out.as_json) as shown:
            outcome.sent_bytes += upload(session.client, file, shown.at, session.out.note)


def _summary(outcome: Outcome) -> str:
    name = f"{outcome.manifest.model}@{outcome.manifest.version}"
    digest = outcome.manifest.canonical_digest()
    aliases = f" Aliases: {', '.join(outcome.aliases)}." if outcome.aliases else ""
    sent, present = size_text(outcome.sent_bytes), size_text(outcome.present_bytes)
    if outcome.dry_run:
        return f"Dry run: {name} ({digest}) would send {sent}; {present} are in the registry. Nothing was changed."
    if not outcome.created:
        return f"{name} is published with the same content already ({digest}); nothing to do.{aliases}"
    return f"Published {name} ({digest}): {sent} sent, {present} were there.{aliases}"
