"""What a checkpoint needs besides its bytes: its network, and with it what goes in and comes out.

The network gives a shape without names; a sibling variant that says the same of its tensors gives both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from registry.client.errors import UsageFault
from registry.contracts.catalogue import networks
from registry.contracts.catalogue.manifest import Format, Network, TensorSpec, same_tensors
from registry.inspection import checkpoint
from registry.inspection.facts import InspectionError, ModelFacts
from registry.publishing.request import VariantSection

NO_NETWORK = "it names no network, so no agent can run it; say it with --network or [variant.network]"


def with_network(section: VariantSection, facts: ModelFacts) -> ModelFacts:
    """The facts of a checkpoint, with inputs and outputs.

    Raises:
        InspectionError: its parameters are not those of the network.
        UsageFault: the network is not in the catalogue, or goes with no such file or inputs.
    """
    network = network_of(section)
    if section.entry_point is not None:
        _require_code_belongs(section, facts)
        return facts
    if network is None:
        warn = facts.format is Format.MINDSPORE_CKPT
        return replace(facts, warnings=(*facts.warnings, NO_NETWORK)) if warn else facts
    if facts.format is not Format.MINDSPORE_CKPT:
        raise UsageFault(f"A network is for checkpoints; {section.file.name} is {facts.format} and brings its own")
    try:
        checkpoint.check_network(facts, network, section.file.name)
        inputs, outputs = networks.signature(network)
        any_size = replaced_shape(inputs, networks.takes(network))
    except networks.NetworkError as error:
        raise UsageFault(f"{section.file.name}: {error}", hint="--network and --network-arg; docs/hub.md") from error
    given = tuple(TensorSpec.model_validate(spec.model_dump()) for spec in section.inputs)
    if given and not same_tensors(_renamed(any_size, given), given):
        shown = ", ".join(f"{spec.datatype} {list(spec.shape)}" for spec in any_size)
        raise InspectionError(f"{section.file.name}: the network {network.name} takes {shown}; another input was given")
    told = tuple(TensorSpec.model_validate(spec.model_dump()) for spec in section.outputs)
    if told and not same_tensors(_renamed(outputs, told), told):
        shown = ", ".join(f"{spec.datatype} {list(spec.shape)}" for spec in outputs)
        raise InspectionError(f"{section.file.name}: the network {network.name} gives {shown}; another was given")
    return replace(facts, inputs=given or inputs, outputs=told or outputs)


def _require_code_belongs(section: VariantSection, facts: ModelFacts) -> None:
    if facts.format is not Format.MINDSPORE_CKPT:
        raise UsageFault(
            f"An entry point is for checkpoints; {section.file.name} is {facts.format} and brings its own network"
        )
    if section.network is not None:
        raise UsageFault(f"{section.file.name}: network and entry_point: one of them builds the network")


def network_of(section: VariantSection) -> Network | None:
    """As the manifest has it."""
    return None if section.network is None else Network.model_validate(section.network.model_dump())


def like_siblings(facts: ModelFacts, section: VariantSection, siblings: Sequence[ModelFacts]) -> ModelFacts:
    """A checkpoint for which nobody declared tensors takes names, and sizes that it leaves open, from a sibling."""
    network = network_of(section)
    sibling = next((other for other in siblings if other.inputs and other.outputs), None)
    if network is None or sibling is None:
        return facts
    any_size = replaced_shape(facts.inputs, networks.takes(network))
    inputs, outputs = facts.inputs, facts.outputs
    if not section.inputs and same_tensors(_renamed(any_size, sibling.inputs), sibling.inputs):
        inputs = tuple(
            spec.model_copy(update={"name": other.name, "shape": _filled(spec.shape, any_.shape, other.shape)})
            for spec, any_, other in zip(inputs, any_size, sibling.inputs, strict=True)
        )
    if not section.outputs and same_tensors(_renamed(outputs, sibling.outputs), sibling.outputs):
        outputs = _renamed(outputs, sibling.outputs)
    return replace(facts, inputs=inputs, outputs=outputs)


def replaced_shape(specs: tuple[TensorSpec, ...], shape: networks.Shape) -> tuple[TensorSpec, ...]:
    """The one input with the shape that the network really takes."""
    return tuple(spec.model_copy(update={"shape": shape}) for spec in specs)


def _filled(usual: networks.Shape, takes: networks.Shape, sibling: networks.Shape) -> networks.Shape:
    """The sibling's size where the network takes any; the batch stays open."""
    sizes = (
        said if open_ == -1 and said != -1 else own for own, open_, said in zip(usual, takes, sibling, strict=True)
    )
    return (takes[0], *tuple(sizes)[1:])


def _renamed(specs: tuple[TensorSpec, ...], names: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    if len(specs) != len(names):
        return specs
    return tuple(spec.model_copy(update={"name": other.name}) for spec, other in zip(specs, names, strict=True))
