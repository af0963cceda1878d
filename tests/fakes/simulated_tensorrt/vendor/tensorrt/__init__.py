"""A SIMULATED tensorrt for tests: checks the documented contract strictly and computes with ONNX Runtime on the CPU.

It is not TensorRT, knows no GPU and proves nothing about numbers or speed on one.
"""

from __future__ import annotations

from tensorrt._simulated_engine import (
    ALIVE,
    DataType,
    ILogger,
    Logger,
    Runtime,
    TensorFormat,
    TensorIOMode,
    TensorLocation,
)

__version__ = "10.13.3.9"
__all__ = [
    "ALIVE",
    "DataType",
    "ILogger",
    "Logger",
    "Runtime",
    "TensorFormat",
    "TensorIOMode",
    "TensorLocation",
]
