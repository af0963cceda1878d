"""ONNX to INT8 weights (dynamic) or INT8 weights and activations (static), by ONNX Runtime.

Started by file path under the interpreter that has onnxruntime and onnx: these, the standard library and NumPy only,
Python 3.9 syntax.

    {"entry": path, "out": path, "mode": "dynamic" | "static", "weights": "int8" | "uint8", "per_channel": bool,
     "calibration": path of an .npz with `i/name` arrays}
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any

if __name__ == "__main__":
    package = types.ModuleType("agent")
    package.__path__ = [os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))]
    sys.modules["agent"] = package

import numpy
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static

from agent.conversion.children.report import reported


def quantize(order: dict[str, Any]) -> dict[str, str]:
    """Does it. Raises what ONNX Runtime raises."""
    weights = QuantType.QInt8 if order["weights"] == "int8" else QuantType.QUInt8
    common = {"weight_type": weights, "per_channel": order["per_channel"]}
    if order["mode"] == "dynamic":
        quantize_dynamic(order["entry"], order["out"], **common)
    else:
        quantize_static(order["entry"], order["out"], _Cases(order["calibration"]), **common)
    return {"onnxruntime": str(onnxruntime.__version__), "onnx": str(onnx.__version__)}


class _Cases:
    """A CalibrationDataReader: one request after the other, then None."""

    def __init__(self, path: str) -> None:
        cases: dict[int, dict[str, Any]] = {}
        with numpy.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                number, _, name = key.partition("/")
                cases.setdefault(int(number), {})[name] = archive[key]
        self._waiting = [cases[number] for number in sorted(cases)]

    def get_next(self) -> Any:
        """The inputs of the next request by name."""
        return self._waiting.pop(0) if self._waiting else None

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        found = self.get_next()
        if found is None:
            raise StopIteration
        return found


if __name__ == "__main__":
    reported(quantize)
