"""ONNX to a TensorRT plan: by TensorRT's Python builder, or by `trtexec` where only that is there.

A plan runs on the GPU that it was built for and on the same TensorRT only, so both go into its requirements. Never run
on hardware here: the commands follow NVIDIA's documentation and are tested against simulated tools.
"""

from __future__ import annotations

import re

from agent.conversion.base import (
    OUT,
    ConversionPlan,
    ConversionRequest,
    Ran,
    bad_option,
    check_options,
    child,
    choice,
    failure,
)
from agent.errors import PermanentError
from registry.contracts.catalogue.manifest import Requirements, Target
from registry.contracts.codes import JobCode

TOOL = "tensorrt"
OPTIONS = {
    "builder": "python (TensorRT's module) or trtexec",
    "precision": "fp32 or fp16",
    "max_batch": "the largest batch of an open leading dimension; 32 by default",
    "workspace_mib": "memory that the builder may use, MiB",
    "version_compatible": "false or true: runs on later releases of the same major version",
}
FILE = "model.plan"
_TRTEXEC_VERSION = re.compile(r"\[TensorRT v(\d{2})(\d{2})(\d{2})\](?: \[b(\d{1,6})\])?")


def plan(request: ConversionRequest) -> ConversionPlan:
    """The exact command. Raises PermanentError: bad_option, tool_missing."""
    check_options(request.options, OPTIONS, TOOL)
    gpu = request.tools.compute_capability
    if not gpu:
        raise PermanentError(
            JobCode.TOOL_MISSING, "a plan is built on the GPU that runs it, and this host has none: --on DEVICE"
        )
    profiles = _profiles(request)
    workspace = _number(request, "workspace_mib", 0, 1 << 20)
    precision = choice(request, "precision", ("fp32", "fp16"))
    compatible = choice(request, "version_compatible", ("false", "true")) == "true"
    if choice(request, "builder", ("python", "trtexec")) == "trtexec":
        command = _trtexec(request, precision, compatible, profiles, workspace)
    else:
        order = {
            "entry": request.entry,
            "out": f"{OUT}/{FILE}",
            "precision": precision,
            "version_compatible": compatible,
            "profiles": profiles,
            "workspace_mib": workspace,
        }
        command = child(request.tools.python, "build_tensorrt", order)
    return ConversionPlan(
        tool=TOOL,
        command=command,
        entry=FILE,
        name=request.option("name", f"plan-sm{gpu.replace('.', '')}-{precision}"),
        target=Target.GPU,
        inputs=request.source.inputs,
        outputs=request.source.outputs,
        requirements=Requirements(compute_capability=gpu),
        versions={"compute_capability": gpu},
    )


def check(_request: ConversionRequest, _plan: ConversionPlan, ran: Ran) -> None:
    """Raises PermanentError: tool_missing, tool_failed."""
    if ran.code == 0:
        return
    if "ModuleNotFoundError" in ran.output or "ImportError" in ran.output:
        raise PermanentError(
            JobCode.TOOL_MISSING, f"{failure(ran)}: install tensorrt, or use trtexec (builder=trtexec)"
        )
    raise PermanentError(JobCode.TOOL_FAILED, f"TensorRT built no engine: {failure(ran)}")


def version_of(plan: ConversionPlan, ran: Ran, reported: str) -> str:
    """The TensorRT that built it: what the builder reported, or what trtexec printed. Raises PermanentError."""
    if reported:
        return reported
    found = _TRTEXEC_VERSION.search(ran.output)
    if found is None:
        raise PermanentError(
            JobCode.TOOL_NO_OUTPUT, f"{plan.command[0]} did not say its version: nobody could tell where the plan runs"
        )
    return ".".join(str(int(part)) for part in found.groups() if part is not None)


def _profiles(request: ConversionRequest) -> dict[str, list[list[int]]]:
    """Least, usual and largest shape of every input with an open batch. Raises PermanentError."""
    largest = _number(request, "max_batch", 32, 4096)
    profiles = {}
    for spec in request.source.inputs:
        if -1 in spec.shape[1:]:
            bad_option(
                f"input {spec.name} has the shape {list(spec.shape)}: only the leading dimension may be open here"
            )
        if spec.shape[:1] == (-1,):
            profiles[spec.name] = [[batch, *spec.shape[1:]] for batch in (1, min(8, largest), largest)]
    return profiles


def _trtexec(
    request: ConversionRequest, precision: str, compatible: bool, profiles: dict[str, list[list[int]]], workspace: int
) -> tuple[str, ...]:
    if request.tools.trtexec is None:
        raise PermanentError(JobCode.TOOL_MISSING, "there is no `trtexec` here: install TensorRT, or use its module")
    command = [request.tools.trtexec, f"--onnx={request.entry}", f"--saveEngine={OUT}/{FILE}", "--skipInference"]
    for number, option in enumerate(("--minShapes", "--optShapes", "--maxShapes")):
        shapes = [f"{name}:{'x'.join(map(str, shapes[number]))}" for name, shapes in profiles.items()]
        command += [f"{option}={','.join(shapes)}"] if shapes else []
    command += ["--fp16"] if precision == "fp16" else []
    command += ["--versionCompatible", "--excludeLeanRuntime"] if compatible else []
    command += [f"--memPoolSize=workspace:{workspace}M"] if workspace else []
    return tuple(command)


def _number(request: ConversionRequest, name: str, default: int, most: int) -> int:
    text = request.option(name, str(default))
    if not (text.isascii() and text.isdecimal() and int(text) <= most and (int(text) > 0 or default == 0)):
        bad_option(f"option {name} is a number up to {most}, not {text[:64]!r}")
    return int(text)
