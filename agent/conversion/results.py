"""What a conversion left in its folder, looked at without running it: is it what it should be, and what does it need?

A tool that says that it succeeded is not believed: the file must be of the format by its content, and whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from agent.conversion.base import OUT, ConversionPlan
from agent.errors import PermanentError
from registry.contracts.catalogue.batching import Batching
from registry.contracts.catalogue.manifest import FileRef, Format, Requirements, TensorSpec
from registry.contracts.codes import JobCode
from registry.inspection import air, mindir, om, onnx
from registry.inspection.facts import InspectionError, ModelFacts

MAX_FILES = 16
CHUNK = 1 << 20


@dataclass(frozen=True)
class Inspected:
    """A checked result."""

    files: tuple[FileRef, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    requirements: Requirements
    batching: Batching | None = None
    """What the graph of an ONNX result says; the graphs of other formats are not read."""


def inspect(to: Format, entry: Path, plan: ConversionPlan) -> Inspected:
    """Raises PermanentError(tool_no_output): what is there is not a file of the format, or is cut short."""
    try:
        if to is Format.ONNX:
            _open_dimensions(entry, plan.outputs)
            facts = onnx.inspect(entry)
        elif to is Format.MINDIR:
            facts = mindir.inspect(entry)
        elif to is Format.OM:
            facts = om.inspect(entry, atc="")  # the chip is known: it was said to ATC
        elif to is Format.AIR:
            facts = air.inspect(entry)
        else:
            facts = ModelFacts(format=to)
    except InspectionError as error:
        _refuse(plan, error.message)
    read = to is Format.ONNX
    return Inspected(
        files=file_refs(_folder_of(entry)),
        inputs=facts.inputs if read else plan.inputs,
        outputs=facts.outputs if read else plan.outputs,
        requirements=facts.requirements.model_copy(update=plan.requirements.to_json()),
        batching=facts.batching,
    )


def file_refs(folder: Path) -> tuple[FileRef, ...]:
    """All files below a folder with their digests and sizes. Raises PermanentError for what cannot be published."""
    paths: Sequence[Path] = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    if len(paths) > MAX_FILES or any(path.is_symlink() or not path.is_file() for path in paths):
        raise PermanentError(
            JobCode.TOOL_NO_OUTPUT, f"the tool left {len(paths)} files, or links; {MAX_FILES} plain ones are the most"
        )
    refs = []
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while data := stream.read(CHUNK):
                digest.update(data)
        name = path.relative_to(folder).as_posix()
        refs.append(FileRef(path=name, digest="sha256:" + digest.hexdigest(), size=path.stat().st_size))
    return tuple(refs)


def _open_dimensions(path: Path, outputs: tuple[TensorSpec, ...]) -> None:
    """MindSpore's ONNX has the batch of its example in the outputs: opened where the source says that it is open."""
    wanted = {spec.name: spec.shape for spec in outputs if -1 in spec.shape}
    if not wanted:
        return
    try:
        import onnx as onnx_package  # noqa: PLC0415 - absent on hosts that convert nothing
    except ModuleNotFoundError:
        raise PermanentError(
            JobCode.TOOL_MISSING, "finishing ONNX files needs the `onnx` package: pip install 'modelfleet[publish]'"
        ) from None
    model = onnx_package.load_model(path, load_external_data=False)
    for value in model.graph.output:
        dims = value.type.tensor_type.shape.dim
        shape = wanted.get(value.name, ())
        for axis, dim in enumerate(dims if len(dims) == len(shape) else ()):
            if shape[axis] == -1 and not dim.dim_param:
                dim.dim_param = "batch" if axis == 0 else f"d{axis}"
    onnx_package.save_model(model, path)


def _folder_of(entry: Path) -> Path:
    return next((parent for parent in entry.parents if parent.name == OUT), entry.parent)


def _refuse(plan: ConversionPlan, why: str) -> NoReturn:
    tool = Path(plan.command[0]).name
    raise PermanentError(
        JobCode.TOOL_NO_OUTPUT, f"{tool} said that it succeeded, but what it left cannot be used: {why}"
    )
