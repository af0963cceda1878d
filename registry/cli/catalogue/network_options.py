"""`--network`, `--entry-point` and their kin: what a checkpoint does not say of itself, on the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from registry.client.errors import UsageFault
from registry.contracts.catalogue.manifest import Variant
from registry.contracts.catalogue.networks import Value, networks
from registry.contracts.tensors import Datatype
from registry.publishing.request import EntryPointSection, NetworkSection, TensorSection

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
        help="Of its constructor, or of the entry point's function; may be repeated.",
        rich_help_panel=NETWORK_PANEL,
    ),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME:TYPE:DIMS",
        help="Else the siblings', else the network's: x:FP32:-1,3,32,32.",
        rich_help_panel=NETWORK_PANEL,
    ),
]
OutputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        metavar="NAME:TYPE:DIMS",
        help="As --input; an entry point needs both.",
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


def architecture(name: str | None, entry_point: str | None, pairs: list[str]) -> dict[str, Any]:
    """The options as a publish file would say them: `network` or `entry_point`, or nothing. Raises UsageFault."""
    if name is not None and entry_point is not None:
        raise UsageFault("--network and --entry-point: one of them builds the network")
    if name is not None:
        return {"network": NetworkSection(name=name, arguments=_arguments(pairs))}
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
    arguments: dict[str, Value] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageFault(f"{pair!r} is not of the form NAME=VALUE", hint="--network-arg num_class=10")
        if key in arguments:
            raise UsageFault(f"--network-arg {key} is given twice")
        arguments[key] = _value(text)
    return arguments


def network_text(variant: Variant) -> str:
    """What builds the network, as it is called: `lenet5(num_class=10)`; empty: nothing does."""
    if variant.network is not None:
        return _call(variant.network.name, variant.network.arguments)
    if variant.entry_point is not None:
        code = variant.entry_point
        return f"{_call(f'{code.module}:{code.function}', code.arguments)}, signed with {code.key}"
    return ""


def _call(name: str, arguments: dict[str, Value]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})"


def tensor_sections(texts: list[str] | None) -> tuple[TensorSection, ...]:
    """`x:FP32:-1,1,32,32` each. Raises UsageFault."""
    return tuple(_tensor(text) for text in texts or ())


def _tensor(text: str) -> TensorSection:
    name, _, rest = text.rpartition(":")
    name, _, datatype = name.rpartition(":")
    dims = rest.split(",")
    if not name or datatype not in list(Datatype) or not all(re.fullmatch(r"-1|[0-9]{1,9}", dim) for dim in dims):
        raise UsageFault(f"{text!r} is not of the form NAME:TYPE:DIMS", hint="--input x:FP32:-1,1,32,32 (-1: any size)")
    values: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [int(dim) for dim in dims]}
    return TensorSection.model_validate(values)


def _value(text: str) -> Value:
    """`true` and `false`, whole and other numbers; everything else is text."""
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    if re.fullmatch(r"-?[0-9]{1,18}\.[0-9]{1,18}", text):
        return float(text)
    return text
