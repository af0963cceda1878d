"""ONNX to INT8 by ONNX Runtime's quantisation: weights (dynamic), or weights and activations (static).

Dynamic needs no data. Static measures the range of every activation on the version's golden inputs. Inputs and outputs
stay as they are, so the result is a sibling like any other, measured by the same golden vectors: an INT8 variant that
is over the version's tolerance is not added; its figures are shown.
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
)
from agent.errors import PermanentError
from registry.contracts.catalogue.conversions import INT8_SUFFIX
from registry.contracts.codes import JobCode
from registry.contracts.tensors import Datatype

TOOL = "onnxruntime-quantize"
OPTIONS = {
    "mode": "dynamic (weights only) or static (activations too; needs the version's golden vectors)",
    "weights": "int8 or uint8",
    "per_channel": "false or true: one scale for each output channel",
}
CALIBRATION = "calibration.npz"
FILE = "model.onnx"


def plan(request: ConversionRequest) -> ConversionPlan:
    """The exact command. Raises PermanentError: bad_option."""
    check_options(request.options, OPTIONS, TOOL)
    mode = choice(request, "mode", ("dynamic", "static"))
    if mode == "static" and not request.calibration:
        bad_option("mode=static measures ranges on golden inputs, and the version has none: publish it with --golden")
    if any(spec.datatype is Datatype.INT8 for spec in request.source.inputs):
        bad_option(f"variant {request.source.name} takes INT8 already")
    order = {
        "entry": request.entry,
        "out": f"{OUT}/{FILE}",
        "mode": mode,
        "weights": choice(request, "weights", ("int8", "uint8")),
        "per_channel": choice(request, "per_channel", ("false", "true")) == "true",
        "calibration": CALIBRATION if mode == "static" else "",
    }
    return ConversionPlan(
        tool=TOOL,
        command=child(request.tools.python, "quantize", order),
        entry=FILE,
        name=request.option("name", request.source.name[: 64 - len(INT8_SUFFIX)] + INT8_SUFFIX),
        target=request.source.target,
    )


def check(_request: ConversionRequest, _plan: ConversionPlan, ran: Ran) -> None:
    """Raises PermanentError: tool_missing, tool_failed."""
    if ran.code == 0:
        return
    if "ModuleNotFoundError" in ran.output:
        raise PermanentError(JobCode.TOOL_MISSING, f"{failure(ran)}: pip install onnxruntime onnx, or --on DEVICE")
    raise PermanentError(JobCode.TOOL_FAILED, f"ONNX Runtime's quantisation failed: {failure(ran)}")
