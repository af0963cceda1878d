"""Asks NVIDIA's driver through NVML and prints one JSON object. A program of its own: a broken driver hangs only it.

Run by path; imports only the standard library and pynvml (distribution nvidia-ml-py). Function names:
https://docs.nvidia.com/deploy/nvml-api.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import Any

from registry.installation import install_command

MAX_GPUS = 64


def look() -> dict[str, Any]:
    """Driver, CUDA and GPUs; or `error`, with `absent` where there is certainly no driver."""
    try:
        pynvml: Any = import_module("pynvml")
    except ImportError:  # an optional package
        return {"error": f"nvidia-ml-py is not installed: {install_command('gpu')}"}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"error": f"nvmlInit: {error}", "absent": isinstance(error, pynvml.NVMLError_LibraryNotFound)}
    try:
        count = min(pynvml.nvmlDeviceGetCount(), MAX_GPUS)
        return {
            "driver": _text(pynvml.nvmlSystemGetDriverVersion()),
            "cuda": pynvml.nvmlSystemGetCudaDriverVersion_v2(),
            "gpus": [_gpu(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)],
        }
    except pynvml.NVMLError as error:
        return {"error": f"NVML: {error}"}
    finally:
        pynvml.nvmlShutdown()


def _gpu(pynvml: Any, handle: Any) -> dict[str, Any]:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return {
        "name": _text(pynvml.nvmlDeviceGetName(handle)),
        "uuid": _text(pynvml.nvmlDeviceGetUUID(handle)),
        "compute_capability": f"{major}.{minor}",
        "memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
    }


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look()))
