"""`--network`, `--network-arg` and `--input`: what a checkpoint does not say of itself, on the command line."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from registry.cli.failures import UsageFault
from registry.cli.publish_file import NetworkSection, TensorSection
from registry.contracts.manifest import Network
from registry.contracts.networks import Value, networks
from registry.contracts.tensors import Datatype

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
        help="Of its constructor; may be repeated.",
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


def network_section(name: str | None, pairs: list[str]) -> NetworkSection | None:
    """The options as a publish file would say it. Raises UsageFault."""
    if name is None:
        if pairs:
            raise UsageFault("--network-arg without --network", hint=f"Networks: {', '.join(networks())}")
        return None
    arguments: dict[str, Value] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageFault(f"{pair!r} is not of the form NAME=VALUE", hint="--network-arg num_class=10")
        if key in arguments:
            raise UsageFault(f"--network-arg {key} is given twice")
        arguments[key] = _value(text)
    return NetworkSection(name=name, arguments=arguments)


def network_text(network: Network) -> str:
    """As its constructor is called: `lenet5(num_class=10)`."""
    return f"{network.name}({', '.join(f'{name}={value}' for name, value in network.arguments.items())})"


def input_sections(texts: list[str]) -> tuple[TensorSection, ...]:
    """`x:FP32:-1,1,32,32` each. Raises UsageFault."""
    return tuple(_tensor(text) for text in texts)


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
