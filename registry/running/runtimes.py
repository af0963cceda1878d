"""What this machine runs itself: ONNX with ONNX Runtime, MindIR with MindSpore's own Python. The rest is for a device.

A device's agent runs far more, confined and for long; this is only for measuring at publishing, and for evaluating
without a device.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from registry.contracts.catalogue.manifest import Format, Target, TensorSpec
from registry.contracts.tensors import RAW, Datatype
from registry.running.process import Order

MINDSPORE_VARIABLE = "MODELFLEET_MINDSPORE_PYTHON"
"""Names the Python in whose environment MindSpore is, where this one's has none: it wants an older NumPy than we do."""
PROVIDERS = {Target.CPU: "CPUExecutionProvider", Target.GPU: "CUDAExecutionProvider"}
DEVICES = {Target.CPU: "CPU", Target.GPU: "GPU", Target.ASCEND910: "Ascend"}
_UNRUNNABLE = RAW | {Datatype.BYTES}
_ELSEWHERE = {
    Format.MINDSPORE_CKPT: "a checkpoint has no network of its own; a device's agent builds it",
    Format.AIR: "AIR runs nowhere; it is there to be converted",
    Format.OM: "an OM runs on its Ascend chip only",
    Format.TENSORRT_PLAN: "a plan runs on its GPU only",
}


def order_for(
    file: Path, model_format: Format, target: Target, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> Order | str:
    """How to run that file here; or why not, in words that can follow `not measured here: `."""
    if any(spec.datatype in _UNRUNNABLE for spec in (*inputs, *outputs)):
        return "tensors of BYTES, BF16 or 8-bit floats are run by devices only"
    names = tuple(spec.name for spec in inputs), tuple(spec.name for spec in outputs)
    if model_format is Format.ONNX:
        if find_spec("onnxruntime") is None:
            return "ONNX Runtime is not installed here: pip install 'modelfleet[onnxruntime]'"
        if target not in PROVIDERS:
            return f"ONNX for {target} runs on such a device only"
        return Order("onnxruntime", sys.executable, PROVIDERS[target], file, *names)
    if model_format is Format.MINDIR:
        interpreter = os.environ.get(MINDSPORE_VARIABLE) or (sys.executable if find_spec("mindspore") else "")
        if not interpreter:
            return f"{MINDSPORE_VARIABLE} names no Python that has MindSpore"
        if target not in DEVICES:
            return f"MindIR for {target} runs on such a device only"
        return Order("mindspore", interpreter, DEVICES[target], file, *names)
    return _ELSEWHERE[model_format]
