"""Converts one variant: plan, run, look at what came out, hand it over as a Variant with its build record.

A tool that says that it succeeded is not believed: the file must be of the format by its content, and whole. It is
looked at without running it.

The same for a device's job and for `registry convert` on the publisher's machine (`python -m agent.jobs.here`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from pydantic import TypeAdapter, ValidationError

from agent.conversion import atc, mindspore_export, quantize, tensorrt
from agent.conversion.base import OUT, ConversionPlan, ConversionRequest, Ran, bad_option
from agent.conversion.tool import run
from agent.errors import PermanentError
from registry.contracts.catalogue.batching import Basis, Batching
from registry.contracts.catalogue.manifest import Build, FileRef, Format, TensorSpec, Variant
from registry.contracts.codes import JobCode
from registry.contracts.wire import Name
from registry.inspection import air, mindir, om, onnx
from registry.inspection.facts import InspectionError, ModelFacts
from registry.installation import install_command

TOOLCHAINS: Mapping[tuple[Format, Format], ModuleType] = {
    (Format.MINDSPORE_CKPT, Format.ONNX): mindspore_export,
    (Format.MINDSPORE_CKPT, Format.MINDIR): mindspore_export,
    (Format.MINDSPORE_CKPT, Format.AIR): mindspore_export,
    (Format.ONNX, Format.OM): atc,
    (Format.AIR, Format.OM): atc,
    (Format.ONNX, Format.TENSORRT_PLAN): tensorrt,
    (Format.ONNX, Format.ONNX): quantize,
}
"""From, to: a module with `plan(request)` and `check(request, plan, ran)`. To add one: a file and a line."""
INSPECTORS: Mapping[Format, Callable[[Path], ModelFacts]] = {
    Format.ONNX: onnx.inspect,
    Format.MINDIR: mindir.inspect,
    Format.OM: lambda entry: om.inspect(entry, atc=""),  # the chip is known: it was said to ATC
    Format.AIR: air.inspect,
}
REPORT = "report.json"
_NAME: TypeAdapter[str] = TypeAdapter(Name)
MAX_REPORT_BYTES = 16 << 10
MAX_FILES = 16
CHUNK = 1 << 20


@dataclass(frozen=True)
class Converted:
    """A conversion that succeeded."""

    variant: Variant
    folder: Path
    """Where its files are."""
    output: str
    """What the tool printed: beginning and end."""


def plan_for(request: ConversionRequest) -> ConversionPlan:
    """The exact command, run nowhere yet. Raises PermanentError: conversion_unknown, bad_option, tool_missing."""
    toolchain = _toolchain(request)
    try:
        plan: ConversionPlan = toolchain.plan(request)
        _NAME.validate_python(plan.name)
        _build(request, plan, plan.versions)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "name"
        bad_option(f"{where} {str(fault['input'])[:64]!r} cannot stand in a variant: {fault['msg']}")
    return plan


def convert(request: ConversionRequest, folder: Path, *, timeout_s: float, cancel: threading.Event) -> Converted:
    """Does it, in `folder`, which has the files of the source in `source/`.

    Raises:
        PermanentError: with a JobCode; nothing runs any more, what was made is gone.
        CancelledError: `cancel` was set.
    """
    toolchain, plan = _toolchain(request), plan_for(request)
    out = folder / OUT
    out.mkdir(mode=0o700)
    try:
        for name, text in plan.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        ran = run(plan.command, folder=folder, timeout_s=timeout_s, cancel=cancel)
        toolchain.check(request, plan, ran)
        versions = {**plan.versions, **_versions(folder / REPORT)}
        requirements = plan.requirements.to_json()
        if toolchain is tensorrt:
            versions["tensorrt"] = tensorrt.version_of(plan, ran, versions.get("tensorrt", ""))
            requirements["tensorrt_version"] = versions["tensorrt"]
        facts = _facts(request.to, _made(out, plan, ran), plan)
        read = request.to is Format.ONNX
        variant = Variant(
            name=plan.name,
            format=request.to,
            target=plan.target,
            entry=plan.entry,
            files=file_refs(out),
            inputs=facts.inputs if read else plan.inputs,
            outputs=facts.outputs if read else plan.outputs,
            requirements=facts.requirements.model_copy(update=requirements),
            batching=_batching(request, facts),
            build=_build(request, plan, versions),
        )
        return Converted(Variant.model_validate(variant.to_json()), out, ran.output)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def _build(request: ConversionRequest, plan: ConversionPlan, versions: Mapping[str, str]) -> Build:
    return Build(
        parent=request.source.canonical_digest(),
        tool=plan.tool,
        command=plan.command,
        versions=dict(versions),
        built_on=request.tools.device,
    )


def _toolchain(request: ConversionRequest) -> ModuleType:
    found = TOOLCHAINS.get((request.source.format, request.to))
    if found is None:
        known = sorted({f"{source} to {to}" for source, to in TOOLCHAINS})
        raise PermanentError(
            JobCode.CONVERSION_UNKNOWN,
            f"there is no way from {request.source.format} to {request.to}; there are: {', '.join(known)}",
        )
    return found


def _made(out: Path, plan: ConversionPlan, ran: Ran) -> Path:
    """The file that must be there. Raises PermanentError(tool_no_output)."""
    entry = out / plan.entry
    if entry.is_symlink() or not entry.is_file() or entry.stat().st_size == 0:
        last = " ".join(ran.output.split())[-200:]
        raise PermanentError(
            JobCode.TOOL_NO_OUTPUT,
            f"{Path(plan.command[0]).name} said that it succeeded, and {plan.entry} is not there: is the disk full, or "
            f"was it killed? Its last words: {last}",
        )
    return entry


def _versions(report: Path) -> dict[str, str]:
    """What a child of ours reported; empty for other tools."""
    if not report.is_file() or report.stat().st_size > MAX_REPORT_BYTES:
        return {}
    versions: dict[str, str] = json.loads(report.read_text(encoding="utf-8"))["versions"]
    return versions


def _batching(request: ConversionRequest, facts: ModelFacts) -> Batching | None:
    """What the result's own graph says; where that is not read, what the publisher declared of the source."""
    said = request.source.batching
    declared = said is not None and said.basis is Basis.PUBLISHER
    return said if request.to is not Format.ONNX and declared else facts.batching


def _facts(to: Format, entry: Path, plan: ConversionPlan) -> ModelFacts:
    """Raises PermanentError(tool_no_output): what is there is not a file of the format, or is cut short."""
    try:
        if to is Format.ONNX:
            _open_dimensions(entry, plan.outputs)
        return INSPECTORS[to](entry) if to in INSPECTORS else ModelFacts(format=to)
    except InspectionError as error:
        raise PermanentError(
            JobCode.TOOL_NO_OUTPUT,
            f"{Path(plan.command[0]).name} said that it succeeded, but what it left cannot be used: {error.message}",
        ) from None


def file_refs(folder: Path) -> tuple[FileRef, ...]:
    """All files below a folder with their digests and sizes. Raises PermanentError for what cannot be published."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
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
            JobCode.TOOL_MISSING, f"finishing ONNX files needs the `onnx` package: {install_command('publish')}"
        ) from None
    model = onnx_package.load_model(path, load_external_data=False)
    for value in model.graph.output:
        dims = value.type.tensor_type.shape.dim
        shape = wanted.get(value.name, ())
        for axis, dim in enumerate(dims if len(dims) == len(shape) else ()):
            if shape[axis] == -1 and not dim.dim_param:
                dim.dim_param = "batch" if axis == 0 else f"d{axis}"
    onnx_package.save_model(model, path)
