"""What is known of one variant's file: what the file says, and what the publisher adds where it is silent.

A file is never asked about twice: what it says need not be given, and what is given may not contradict it. Whether
requests may be joined is what the publisher says, over what the graph says. A checkpoint needs a network besides, and
has its inputs and outputs from it: the network gives a shape without names; a sibling variant that says the same of its
tensors gives both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from registry.client.errors import UsageFault
from registry.contracts.catalogue import networks
from registry.contracts.catalogue.batching import Basis, Batching
from registry.contracts.catalogue.manifest import Format, TensorSpec, same_tensors
from registry.inspection import air, checkpoint, mindir, om, onnx, plan
from registry.inspection.detect import by_ending, detect
from registry.inspection.facts import InspectionError, ModelFacts
from registry.publishing.request import BatchingSection, VariantSection

BUILD_RECORD = {
    Format.OM: {
        "soc_version": 'the chip, as given to atc: soc_version = "Ascend310P3"',
        "cann_version": 'the CANN that built it: cann_version = "8.0.RC1"',
    },
    Format.TENSORRT_PLAN: {
        "tensorrt_version": 'the TensorRT that built it: tensorrt_version = "10.13.3.9"',
        "compute_capability": 'the GPU that it was built for: compute_capability = "8.6"',
    },
}
"""Requirements without which nobody can say where such a file runs, and how to ask for them."""
NO_NETWORK = "it names no network, so no agent can run it; say it with --network or [variant.network]"
_SILENCE = {
    Format.MINDSPORE_CKPT: "a checkpoint holds weights only",
    Format.MINDIR: "it leaves a type or shape open",
    Format.TENSORRT_PLAN: "NVIDIA does not document the form of a plan",
}
"""Why a file does not say its inputs and outputs."""
_ONNX_KEYS = {"onnx_ir", "onnx_opsets"}
Tensors = tuple[TensorSpec, ...]


def decided(section: BatchingSection, facts: ModelFacts) -> tuple[Batching | None, str]:
    """What the manifest will say, and a warning or nothing.

    Raises:
        UsageFault: it contradicts itself.
    """
    found = facts.batching
    if section.axis != 0 and section.independent is not True:
        raise UsageFault("batching: an axis is of items that are declared independent: independent = true")
    if section.independent is False:
        if section.max_size is not None:
            raise UsageFault("batching: one request at a time has no largest size")
        return Batching(basis=Basis.PUBLISHER), ""
    if section.independent is None:
        if section.max_size is not None and found is not None and found.independent:
            found = found.model_copy(update={"max_size": section.max_size})
        return found, ""
    stated = Batching(independent=True, basis=Basis.PUBLISHER, axis=section.axis, max_size=section.max_size)
    if section.axis != 0:
        return stated, f"requests are joined along axis 0 only: with axis {section.axis} they run one at a time"
    if found is not None and not found.independent and found.why:
        return stated, f"you declare that items are independent; the graph does not prove it: {found.why}"
    return stated, ""


Inspected = dict[tuple[Path, Path | None], ModelFacts]
"""ONNX files that were inspected already, by `file` and `links_within`: to read a graph and prove what may be joined
takes seconds for a large one."""


def variant_facts(section: VariantSection, inspected: Inspected) -> ModelFacts:
    """Inspect a variant's model file and add what the publisher says. An ONNX file that is not in `inspected` is put
    there.

    Raises:
        InspectionError: the file cannot be published as it is.
        UsageFault: something that the file does not say is missing, or contradicts it.
    """
    actual = _format(section)
    if actual is Format.ONNX:
        key = (section.file, section.links_within)
        facts = inspected[key] = inspected.get(key) or onnx.inspect(*key)
    else:
        facts = INSPECTORS[actual](section.file)
    if actual is Format.ONNX and (section.inputs or section.outputs):
        raise UsageFault("Inputs and outputs of ONNX files are read from them; leave them out")
    facts = replace(facts, requirements=facts.requirements.model_copy(update=_given(section, facts)))
    _require_build_record(section, facts)
    facts = _with_network(section, facts)
    if actual is Format.ONNX or section.network is not None:
        return facts
    inputs = _signature("input", facts.inputs, section.inputs, section)
    outputs = _signature("output", facts.outputs, section.outputs, section)
    if actual is not Format.AIR and not (inputs and outputs):
        silence = _SILENCE.get(actual, "they depend on how it was converted")
        raise UsageFault(
            f"The inputs and outputs of {section.file.name} are not read from it: {silence}; agents need them "
            "to check requests",
            hint="Say them with --input and --output, or in a publish file with [[variant.inputs]] and "
            "[[variant.outputs]]: name, datatype and shape, see docs/publish.toml",
        )
    return replace(facts, inputs=inputs, outputs=outputs)


def like_siblings(facts: ModelFacts, section: VariantSection, siblings: Sequence[ModelFacts]) -> ModelFacts:
    """A checkpoint for which nobody declared tensors takes names, and sizes that it leaves open, from a sibling."""
    sibling = next((other for other in siblings if other.inputs and other.outputs), None)
    if section.network is None or sibling is None:
        return facts
    any_size = _with_shape(facts.inputs, networks.takes(section.network))
    inputs, outputs = facts.inputs, facts.outputs
    if not section.inputs and _agree(any_size, sibling.inputs):
        inputs = tuple(
            spec.model_copy(update={"name": other.name, "shape": _filled(spec.shape, any_.shape, other.shape)})
            for spec, any_, other in zip(inputs, any_size, sibling.inputs, strict=True)
        )
    if not section.outputs and _agree(outputs, sibling.outputs):
        outputs = _renamed(outputs, sibling.outputs)
    return replace(facts, inputs=inputs, outputs=outputs)


def _format(section: VariantSection) -> Format:
    """The format by the content, or the given one where the content has no sure sign."""
    found = detect(section.file)
    wanted = section.format
    if wanted is None and found is None:
        suggestion = by_ending(section.file)
        raise UsageFault(
            f"The format of {section.file.name} cannot be told from its content"
            + (f"; {suggestion}" if suggestion else ""),
            hint=f"Say it with --format or `format`, one of: {', '.join(Format)}",
        )
    if wanted is not None and found is not None and wanted is not found:
        raise InspectionError(f"{section.file.name} is {found} by its content, not {wanted}")
    if found is None and wanted not in (Format.AIR, Format.TENSORRT_PLAN):
        raise InspectionError(f"{section.file.name} is not a file of format {wanted}: its content does not begin so")
    return found or wanted or Format.AIR


INSPECTORS: Mapping[Format, Callable[[Path], ModelFacts]] = {
    Format.ONNX: onnx.inspect,
    Format.MINDSPORE_CKPT: checkpoint.inspect,
    Format.MINDIR: mindir.inspect,
    Format.AIR: air.inspect,
    Format.OM: om.inspect,
    Format.TENSORRT_PLAN: plan.inspect,
}
"""Who reads a format."""


def _given(section: VariantSection, facts: ModelFacts) -> dict[str, object]:
    """What the publisher says of hosts and of the build; a contradiction is refused, not overruled."""
    said = section.requirements.given
    if ours := _ONNX_KEYS & said.keys():
        raise UsageFault(f"{', '.join(sorted(ours))}: read from ONNX files, and of no other format; leave it out")
    for key, value in said.items():
        read = getattr(facts.requirements, key)
        if read not in (None, False, ()) and value != read:
            raise InspectionError(f"{section.file.name} says {key} = {read!r}; the publish file says {value!r}")
    return said


def _require_build_record(section: VariantSection, facts: ModelFacts) -> None:
    missing = [
        text for key, text in BUILD_RECORD.get(facts.format, {}).items() if getattr(facts.requirements, key) is None
    ]
    if missing:
        tool = "; `atc --mode=1` would read it, where CANN is installed" if facts.format is Format.OM else ""
        raise UsageFault(
            f"{section.file.name} ({facts.format}) runs only where it was built for, and that cannot be read "
            f"from the file here{tool}",
            hint="Say it in [variant.requirements] of a publish file: " + "; ".join(missing),
        )


def _signature(kind: str, read: Tensors, given: Tensors, section: VariantSection) -> Tensors:
    """The file's tensors, with the given names: MindIR passes them by position."""
    if not read or not given:
        return read or given
    if not _agree(read, given):
        shown = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in read)
        raise InspectionError(f"{section.file.name} has the {kind}s: {shown}; the publish file says otherwise")
    return _renamed(read, given)


def _with_network(section: VariantSection, facts: ModelFacts) -> ModelFacts:
    """The facts of a checkpoint, with inputs and outputs.

    Raises:
        InspectionError: its parameters are not those of the network.
        UsageFault: the network is not in the catalogue, or goes with no such file or inputs.
    """
    network, name = section.network, section.file.name
    if section.entry_point is not None:
        if facts.format is not Format.MINDSPORE_CKPT:
            raise UsageFault(f"An entry point is for checkpoints; {name} is {facts.format} and brings its own network")
        if network is not None:
            raise UsageFault(f"{name}: network and entry_point: one of them builds the network")
        return facts
    if network is None:
        warn = facts.format is Format.MINDSPORE_CKPT
        return replace(facts, warnings=(*facts.warnings, NO_NETWORK)) if warn else facts
    if facts.format is not Format.MINDSPORE_CKPT:
        raise UsageFault(f"A network is for checkpoints; {name} is {facts.format} and brings its own")
    try:
        checkpoint.check_network(facts, network, name)
        inputs, outputs = networks.signature(network)
        any_size = _with_shape(inputs, networks.takes(network))
    except networks.NetworkError as error:
        raise UsageFault(f"{name}: {error}", hint="--network and --network-arg; docs/hub.md") from error
    for given, own, verb, kind in (
        (section.inputs, any_size, "takes", "another input was given"),
        (section.outputs, outputs, "gives", "another was given"),
    ):
        if given and not _agree(own, given):
            shown = ", ".join(f"{spec.datatype} {list(spec.shape)}" for spec in own)
            raise InspectionError(f"{name}: the network {network.name} {verb} {shown}; {kind}")
    return replace(facts, inputs=section.inputs or inputs, outputs=section.outputs or outputs)


def _with_shape(specs: Tensors, shape: networks.Shape) -> Tensors:
    """The one input with the shape that the network really takes."""
    return tuple(spec.model_copy(update={"shape": shape}) for spec in specs)


def _filled(usual: networks.Shape, takes: networks.Shape, sibling: networks.Shape) -> networks.Shape:
    """The sibling's size where the network takes any; the batch stays open."""
    sizes = (
        said if open_ == -1 and said != -1 else own for own, open_, said in zip(usual, takes, sibling, strict=True)
    )
    return (takes[0], *tuple(sizes)[1:])


def _renamed(specs: Tensors, names: Tensors) -> Tensors:
    return tuple(spec.model_copy(update={"name": other.name}) for spec, other in zip(specs, names, strict=True))


def _agree(specs: Tensors, others: Tensors) -> bool:
    """The same tensors but for their names."""
    return len(specs) == len(others) and same_tensors(_renamed(specs, others), others)
