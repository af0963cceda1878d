"""`registry publish`: what is asked, in options or a publish file, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from registry.cli.catalogue.batching_options import BatchingOption, MaxBatchOption, batching_section
from registry.cli.catalogue.network_options import (
    EntryPointOption,
    InputOption,
    NetworkArgOption,
    NetworkOption,
    OutputOption,
    SigningKeyOption,
    architecture,
    tensor_sections,
)
from registry.cli.failures import end_well
from registry.cli.output import size_text
from registry.cli.session import Session, command, parse_labels
from registry.client.errors import ClientError, UsageFault
from registry.contracts.catalogue.manifest import Format, Target
from registry.publishing.golden_cases import (
    CompareWithOption,
    GoldenFromOption,
    GoldenInputsOption,
    GoldenOfOption,
    GoldenOption,
    GoldenRandomOption,
    ToleranceOption,
    over,
)
from registry.publishing.plan import make_plan
from registry.publishing.publish import Outcome, carry_out
from registry.publishing.request import PublishFile, VariantSection, load_publish_file

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

    What the file knows is read from it: format, inputs and outputs, opsets, files beside it. A blob that the registry
    has is not sent; a cut upload goes on where it stopped, also when the command is started again. The same content
    again changes nothing; other content under a published version is refused, with the differences (exit code 4).

    A version with several variants carries golden vectors, made by the first that runs here: each that runs here is
    measured by them, the others on their devices, and nothing is published when one is over the tolerance. Where none
    runs here it has none, unless they are given; a single variant has them when asked, and is else tried once with
    random values. --golden-of takes those of another version, --compare-with lets its model make them. See
    docs/parity.md.

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
        described = load_publish_file(_publish_file_path(source))
        of_variant = (target, variant, model_format, network, network_arg, entry_point, model_input, model_output)
        if any((*of_variant, batching, max_batch)):
            raise UsageFault("--target, --variant, --format, --network, --input and so on belong into its [[variant]]")
    else:
        if target is None:
            raise UsageFault("What is it made for?", hint=f"Give --target, one of: {', '.join(Target)}")
        section = VariantSection(
            file=file, target=target, name=variant, format=model_format,
            inputs=tensor_sections(model_input), outputs=tensor_sections(model_output),
            batching=batching_section(batching, max_batch),
            **architecture(network, entry_point, network_arg or []),
        )  # fmt: skip
        described = PublishFile(model=source, variant=(section,))
    given: dict[str, Any] = {"version": version, "licence": licence, "card": card, "signing_key": signing_key}
    update = {key: value for key, value in given.items() if value is not None}
    update["labels"] = described.labels | parse_labels(label or [])
    said = {
        "file": golden,
        "reference": golden_from,
        "of": golden_of,
        "compare_with": compare_with,
        "inputs": golden_inputs,
        "random": golden_random,
    }
    update["golden"] = over(described.golden, said, tolerance)
    update["aliases"] = tuple(dict.fromkeys([*described.aliases, *(alias or [])]))
    outcome = carry_out(session, make_plan(described.model_copy(update=update)), dry_run=dry_run)
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
        raise ClientError(f"The publish file {path} is not there", code="not_found")
    return path


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
