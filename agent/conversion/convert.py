"""Converts one variant: plan, run, look at what came out, hand it over as a Variant with its build record.

The same for a device's job and for `registry convert` on the publisher's machine (`python -m agent.jobs.here`).
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from pydantic import TypeAdapter, ValidationError

from agent.conversion import atc, mindspore_export, quantize, tensorrt
from agent.conversion.base import OUT, ConversionPlan, ConversionRequest, Ran, bad_option
from agent.conversion.results import Inspected, inspect
from agent.conversion.tool import run
from agent.errors import PermanentError
from registry.contracts.catalogue.batching import Basis, Batching
from registry.contracts.catalogue.manifest import Build, Format, Variant
from registry.contracts.codes import JobCode
from registry.contracts.wire import Name

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
REPORT = "report.json"
_NAME: TypeAdapter[str] = TypeAdapter(Name)
MAX_REPORT_BYTES = 16 << 10


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
        Build(
            parent=request.source.canonical_digest(), tool=plan.tool, command=plan.command, versions=dict(plan.versions)
        )
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
        reported = _versions(folder / REPORT)
        found = inspect(request.to, _made(out, plan, ran), plan)
        versions = {**plan.versions, **reported}
        requirements = found.requirements
        if toolchain is tensorrt:
            version = tensorrt.version_of(plan, ran, reported.get("tensorrt", ""))
            versions["tensorrt"] = version
            requirements = requirements.model_copy(update={"tensorrt_version": version})
        variant = _variant(request, plan, found, versions).model_copy(update={"requirements": requirements})
        return Converted(Variant.model_validate(variant.to_json()), out, ran.output)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


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


def _batching(request: ConversionRequest, found: Inspected) -> Batching | None:
    """What the result's own graph says; where that is not read, what the publisher declared of the source."""
    said = request.source.batching
    declared = said is not None and said.basis is Basis.PUBLISHER
    return said if request.to is not Format.ONNX and declared else found.batching


def _variant(
    request: ConversionRequest, plan: ConversionPlan, found: Inspected, versions: Mapping[str, str]
) -> Variant:
    return Variant(
        name=plan.name,
        format=request.to,
        target=plan.target,
        entry=plan.entry,
        files=found.files,
        inputs=found.inputs,
        outputs=found.outputs,
        requirements=found.requirements,
        batching=_batching(request, found),
        build=Build(
            parent=request.source.canonical_digest(),
            tool=plan.tool,
            command=plan.command,
            versions=dict(versions),
            built_on=request.tools.device,
        ),
    )
