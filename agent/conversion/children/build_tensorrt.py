"""ONNX to a TensorRT plan, for the GPU of this host, by TensorRT's own builder.

Run by `run.py` under the interpreter that has tensorrt: this and the standard library only, Python 3.9 syntax.
Calls as documented for TensorRT 10 and 11: docs.nvidia.com/deeplearning/tensorrt, "Python API", IBuilderConfig.

    {"entry": path, "out": path, "precision": "fp32" | "fp16", "version_compatible": bool,
     "profiles": {input: [least shape, usual shape, largest shape]}, "workspace_mib": int or 0}
"""

from __future__ import annotations

import os
from typing import Any

import tensorrt as trt


class BuildError(Exception):
    """TensorRT said no in a return value."""

    code = "tensorrt_refused"


def work(order: dict[str, Any]) -> dict[str, str]:
    """Does it. Raises BuildError, and what TensorRT raises."""
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(order["entry"]):
        faults = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise BuildError(f"the ONNX file cannot be parsed: {'; '.join(faults)[:1000]}")
    config = builder.create_builder_config()
    if order["workspace_mib"]:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order["workspace_mib"] << 20)
    if order["precision"] == "fp16":
        flag = getattr(trt.BuilderFlag, "FP16", None)
        if flag is None:
            raise BuildError("this TensorRT builds strongly typed networks only: export the model itself in FP16")
        config.set_flag(flag)
    if order["version_compatible"]:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)  # agents refuse code that is inside a plan
    if order["profiles"]:
        profile = builder.create_optimization_profile()
        for name, shapes in order["profiles"].items():
            profile.set_shape(name, *(tuple(shape) for shape in shapes))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError("TensorRT built no engine; its log above says why")
    with open(order["out"], "wb") as stream:
        stream.write(memoryview(plan))
        stream.flush()
        os.fsync(stream.fileno())
    return {"tensorrt": str(trt.__version__)}
