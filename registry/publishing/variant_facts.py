"""What is known of one variant's file: what the file says, and what the publish file adds where it is silent.

A file is never asked about twice: what it says need not be given, and what is given may not contradict it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from registry.client.errors import UsageFault
from registry.contracts.catalogue.manifest import Format, TensorSpec, same_tensors
from registry.inspection import air, checkpoint, mindir, om, onnx, plan, safetensors
from registry.inspection.detect import detect
from registry.inspection.facts import InspectionError, ModelFacts
from registry.inspection.foreign_formats import by_ending
from registry.publishing.checkpoint_facts import with_network
from registry.publishing.request import VariantSection

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
READ_KEYS = (
    *("mindspore_version", "soc_version", "cann_version", "opp_version", "tensorrt_version", "compute_capability"),
    *("tensorrt_version_compatible", "hardware_compat"),
)


def variant_facts(section: VariantSection) -> ModelFacts:
    """Inspect a variant's model file and add what the publisher says.

    Raises:
        InspectionError: the file cannot be published as it is.
        UsageFault: something that the file does not say is missing, or contradicts it.
    """
    actual = _format(section)
    facts = _inspected(section.file, actual)
    if actual is Format.ONNX and (section.inputs or section.outputs):
        raise UsageFault("Inputs and outputs of ONNX files are read from them; leave them out")
    facts = replace(facts, requirements=facts.requirements.model_copy(update=_given(section, facts)))
    _require_build_record(section, facts)
    facts = with_network(section, facts)
    if actual is Format.ONNX or section.network is not None:
        return facts
    inputs = _signature("input", facts.inputs, section.inputs, section)
    outputs = _signature("output", facts.outputs, section.outputs, section)
    if actual is not Format.AIR and not (inputs and outputs):
        raise UsageFault(
            f"The inputs and outputs of {section.file.name} are not read from it: {_silence(actual)}; agents need them "
            "to check requests",
            hint="Say them with --input and --output, or in a publish file with [[variant.inputs]] and "
            "[[variant.outputs]]: name, datatype and shape, see docs/publish.toml",
        )
    return replace(facts, inputs=inputs, outputs=outputs)


def _format(section: VariantSection) -> Format:
    """The format by the content, or the given one where the content has no sure sign."""
    found = detect(section.file)
    wanted = section.format
    if wanted is None and found is None:
        raise UsageFault(
            f"The format of {section.file.name} cannot be told from its content{_suggested(section.file)}",
            hint=f"Say it with --format or `format`, one of: {', '.join(Format)}",
        )
    if wanted is not None and found is not None and wanted is not found:
        raise InspectionError(f"{section.file.name} is {found} by its content, not {wanted}")
    if found is None and wanted not in (Format.AIR, Format.TENSORRT_PLAN):
        raise InspectionError(f"{section.file.name} is not a file of format {wanted}: its content does not begin so")
    return found or wanted or Format.AIR


def _suggested(path: Path) -> str:
    suggestion = by_ending(path)
    return f"; {suggestion}" if suggestion else ""


def _inspected(path: Path, actual: Format) -> ModelFacts:
    if actual is Format.ONNX:
        return onnx.inspect(path)
    if actual is Format.MINDIR:
        return mindir.inspect(path)
    if actual is Format.OM:
        return om.inspect(path)
    if actual is Format.TENSORRT_PLAN:
        return plan.inspect(path)
    if actual is Format.MINDSPORE_CKPT:
        with path.open("rb") as file:
            head = file.read(16)
        if safetensors.looks_so(head, path.stat().st_size):
            return safetensors.inspect(path)
        return checkpoint.inspect(path)
    return air.inspect(path)


def _silence(actual: Format) -> str:
    """Why a file does not say its inputs and outputs."""
    if actual is Format.MINDSPORE_CKPT:
        return "a checkpoint holds weights only"
    if actual is Format.MINDIR:
        return "it leaves a type or shape open"
    if actual is Format.TENSORRT_PLAN:
        return "NVIDIA does not document the form of a plan"
    return "they depend on how it was converted"


def _given(section: VariantSection, facts: ModelFacts) -> dict[str, str | bool]:
    """What the publisher says of the build; a contradiction is refused, not overruled."""
    said: dict[str, str | bool] = {}
    for key in READ_KEYS:
        given, read = getattr(section.requirements, key), getattr(facts.requirements, key)
        if given is None:
            continue
        if read not in (None, False) and given != read:
            raise InspectionError(f"{section.file.name} says {key} = {read!r}; the publish file says {given!r}")
        said[key] = given
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


def _signature(
    kind: str, read: tuple[TensorSpec, ...], given: tuple[TensorSpec, ...], section: VariantSection
) -> tuple[TensorSpec, ...]:
    """The file's tensors, with the given names: MindIR passes them by position."""
    told = tuple(TensorSpec.model_validate(spec.model_dump()) for spec in given)
    if not read or not told:
        return read or told
    renamed = tuple(spec.model_copy(update={"name": other.name}) for spec, other in zip(read, told, strict=False))
    if len(read) != len(told) or not same_tensors(renamed, told):
        shown = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in read)
        raise InspectionError(f"{section.file.name} has the {kind}s: {shown}; the publish file says otherwise")
    return renamed
