"""Checkpoint to ONNX, MindIR and AIR, by MindSpore's export, in MindSpore's own environment.

The network comes from the agent's catalogue by the name in the manifest; no code of the model runs. The ONNX export
leaves a fixed batch in the output although the input's is open: `finish` opens it again. AIR is written on Ascend only;
elsewhere MindSpore's own reason is shown.
"""

from __future__ import annotations

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
    target_of,
)
from agent.errors import PermanentError
from registry.contracts.catalogue.manifest import Format, Target
from registry.contracts.codes import JobCode

TOOL = "mindspore-export"
OPTIONS = {"device": "what MindSpore exports on: CPU or Ascend (AIR needs Ascend)"}
FILES = {Format.ONNX: "model.onnx", Format.MINDIR: "model.mindir", Format.AIR: "model.air"}
DEFAULT_TARGET = {Format.ONNX: Target.CPU, Format.MINDIR: Target.CPU, Format.AIR: Target.ASCEND310}


def plan(request: ConversionRequest) -> ConversionPlan:
    """The exact command. Raises PermanentError: bad_option, tool_missing."""
    check_options(request.options, OPTIONS, TOOL)
    network = request.source.network
    if request.source.entry_point is not None:
        bad_option(
            f"variant {request.source.name} brings signed code of its own, and a conversion runs no code of a version: "
            "export it where it was trained, and publish that beside it"
        )
    if network is None:
        bad_option(
            f"variant {request.source.name} is a checkpoint that names no network: publish it with --network, so that "
            "its weights have an architecture to go into"
        )
    if len(request.source.inputs) != 1 or len(request.source.outputs) != 1:
        bad_option(f"variant {request.source.name} has several inputs or outputs; the catalogue's networks have one")
    if request.tools.mindspore is None:
        raise PermanentError(
            JobCode.TOOL_MISSING,
            'MindSpore is not here: install mindspore and "numpy<2" in an environment of their own and name its Python '
            "(MODELFLEET_MINDSPORE_PYTHON, on a device worker.interpreters.mindspore), or convert on a device that has "
            "it (--on DEVICE)",
        )
    file = FILES[request.to]
    target = target_of(request, DEFAULT_TARGET[request.to])
    order = {
        "network": network.name,
        "arguments": network.arguments,
        "entry": request.entry,
        "to": str(request.to),
        "out": f"{OUT}/{file}",
        "shape": [None if dim == -1 else dim for dim in request.source.inputs[0].shape],
        "inputs": [spec.name for spec in request.source.inputs],
        "outputs": [spec.name for spec in request.source.outputs],
        "device": choice(request, "device", ("CPU", "Ascend")),
    }
    return ConversionPlan(
        tool=TOOL,
        command=child(request.tools.mindspore, "export_mindspore", order),
        entry=file,
        name=request.option("name", "air" if request.to is Format.AIR else f"{request.to}-{target}"),
        target=target,
        inputs=request.source.inputs,
        outputs=request.source.outputs,
    )


def check(request: ConversionRequest, _plan: ConversionPlan, ran: Ran) -> None:
    """Raises PermanentError(tool_failed) with MindSpore's reason."""
    if ran.code != 0:
        hint = "; AIR is exported on a device with an Ascend 910 (--on DEVICE)" if request.to is Format.AIR else ""
        raise PermanentError(JobCode.TOOL_FAILED, f"MindSpore's export failed: {failure(ran)}{hint}")
