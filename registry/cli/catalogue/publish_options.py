"""The options of `registry publish`, and what they say in the words of a publish file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from registry.cli.session import parse_pairs
from registry.client.errors import UsageFault
from registry.contracts.catalogue.batching import MAX_JOINED
from registry.contracts.catalogue.manifest import MAX_GOLDEN_CASES, Format, Network, Target, TensorSpec, Tolerance
from registry.contracts.catalogue.networks import Value, networks
from registry.contracts.tensors import Datatype
from registry.publishing.request import BatchingSection, EntryPointSection

Source = Annotated[str, typer.Argument(metavar="MODEL|FILE.toml", help="The model's name, or a publish file.")]
ModelFile = Annotated[Path | None, typer.Argument(metavar="FILE", help="The model's file, after a name.")]
VersionOption = Annotated[str | None, typer.Option("--version", help="The version's name; immutable once published.")]
TargetOption = Annotated[Target | None, typer.Option("--target", help="The kind of platform it is made for.")]
VariantOption = Annotated[str | None, typer.Option("--variant", help="The variant's name. Default: FORMAT-TARGET.")]
FormatOption = Annotated[Format | None, typer.Option("--format", help="The format. Default: by the file's content.")]
LabelOption = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="May be repeated.")]
LicenceOption = Annotated[str | None, typer.Option("--licence", "--license", help="An SPDX expression.")]
CardOption = Annotated[Path | None, typer.Option("--card", metavar="README.md", help="The model card, Markdown.")]
AliasOption = Annotated[
    list[str] | None, typer.Option("--alias", help="Point this alias at the version; may be repeated.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Inspect and compare; change nothing.")]

NETWORK_PANEL = "Checkpoints: what the weights are filled into"
NetworkOption = Annotated[
    str | None,
    typer.Option("--network", help=f"One of: {', '.join(networks())}.", rich_help_panel=NETWORK_PANEL),
]
NetworkArgOption = Annotated[
    list[str] | None,
    typer.Option(
        "--network-arg",
        metavar="NAME=VALUE",
        help="An argument of the network's constructor or the entry point's function; may be repeated.",
        rich_help_panel=NETWORK_PANEL,
    ),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME:TYPE:DIMS",
        help="An input: x:FP32:-1,3,32,32. Default: those of the other variants or of the network.",
        rich_help_panel=NETWORK_PANEL,
    ),
]
OutputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        metavar="NAME:TYPE:DIMS",
        help="An output, as --input. An entry point needs both.",
        rich_help_panel=NETWORK_PANEL,
    ),
]
EntryPointOption = Annotated[
    str | None,
    typer.Option(
        "--entry-point",
        metavar="FILE.py:FUNCTION",
        help="Code that builds the network, instead of --network. It runs only on devices that trust its signer.",
        rich_help_panel=NETWORK_PANEL,
    ),
]
SigningKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--signing-key",
        metavar="FILE",
        help="Signs the entry points; see `registry key new`.",
        rich_help_panel=NETWORK_PANEL,
    ),
]

BATCHING_PANEL = "Joining requests (docs/batching.md)"


BatchingChoice = Literal["auto", "independent", "off"]
"""What the publisher says of the items of one run."""
BatchingOption = Annotated[
    BatchingChoice | None,
    typer.Option(
        "--batching",
        help="auto: as an ONNX graph proves. independent: you declare that items do not influence each other. "
        "off: one request at a time.",
        rich_help_panel=BATCHING_PANEL,
    ),
]
MaxBatchOption = Annotated[
    int | None,
    typer.Option(
        "--max-batch",
        min=1,
        max=MAX_JOINED,
        help="The largest number of requests in one run. Default: the best on each device.",
        rich_help_panel=BATCHING_PANEL,
    ),
]

GOLDEN_PANEL = "Golden vectors: what every variant must answer"
GoldenOption = Annotated[
    Path | None,
    typer.Option(
        "--golden", metavar="FILE", help="Use these golden vectors: .safetensors or .npz.", rich_help_panel=GOLDEN_PANEL
    ),
]
GoldenFromOption = Annotated[
    str | None,
    typer.Option(
        "--golden-from",
        metavar="VARIANT",
        help="Make them with this variant. Default: the first that runs here.",
        rich_help_panel=GOLDEN_PANEL,
    ),
]
GoldenOfOption = Annotated[
    str | None,
    typer.Option(
        "--golden-of",
        metavar="MODEL@VERSION",
        help="Use the golden vectors of this version.",
        rich_help_panel=GOLDEN_PANEL,
    ),
]
CompareWithOption = Annotated[
    str | None,
    typer.Option(
        "--compare-with",
        metavar="MODEL@VERSION",
        help="Make them here with this version's model.",
        rich_help_panel=GOLDEN_PANEL,
    ),
]
GoldenInputsOption = Annotated[
    Path | None,
    typer.Option("--golden-inputs", metavar="FILE", help="Make them from these inputs.", rich_help_panel=GOLDEN_PANEL),
]
GoldenRandomOption = Annotated[
    int | None,
    typer.Option(
        "--golden-random",
        metavar="N",
        min=0,
        max=MAX_GOLDEN_CASES,
        help="Make them from N random inputs. 0: no vectors, and no trial run.",
        rich_help_panel=GOLDEN_PANEL,
    ),
]
ToleranceOption = Annotated[
    str | None,
    typer.Option("--tolerance", metavar="absolute=,relative=,top1=", rich_help_panel=GOLDEN_PANEL),
]


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
