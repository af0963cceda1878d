"""ONNX to INT8 weights (dynamic) or INT8 weights and activations (static), by ONNX Runtime.

Run by `run.py` under the interpreter that has onnxruntime and onnx: these, the standard library and NumPy only,
Python 3.9 syntax.

    {"entry": path, "out": path, "mode": "dynamic" | "static", "weights": "int8" | "uint8", "per_channel": bool,
     "calibration": path of an .npz with `i/name` arrays}

ONNX Runtime quantises only weights that are initializers of the main graph. Exporters write them as Constant nodes
too, or behind Identity, Transpose or Reshape: its own pre-processing folds these first.
"""

from __future__ import annotations

from typing import Any

import numpy
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

WHOLE, PREPARED = "whole.onnx", "prepared.onnx"
_QUANTISED = ("QLinear", "QGemm", "QAttention", "QEmbed", "MatMulInteger", "ConvInteger", "DequantizeLinear")
_QUANTISED_ALSO = ("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulNBits", "GatherBlockQuantized")


class NothingQuantised(Exception):  # noqa: N818 - it is an answer
    """What came out computes as before."""

    code = "nothing_quantised"


def work(order: dict[str, Any]) -> dict[str, str]:
    """Does it. Raises NothingQuantised, and what ONNX Runtime raises."""
    entry = prepared(order["entry"])
    weights = QuantType.QInt8 if order["weights"] == "int8" else QuantType.QUInt8
    common = {"weight_type": weights, "per_channel": order["per_channel"]}
    if order["mode"] == "dynamic":
        quantize_dynamic(entry, order["out"], **common)
    else:
        quantize_static(entry, order["out"], _Cases(order["calibration"]), **common)
    if quantised_operators(order["out"]) <= quantised_operators(order["entry"]):
        raise NothingQuantised(
            "no operator was quantised: ONNX Runtime quantises MatMul, Gemm, Conv, Attention, LSTM, Gather and the "
            "like whose weights are constants of the main graph; weights inside branches of If, Loop and Scan, and "
            "ones that depend on an input, stay as they are"
        )
    return {"onnxruntime": str(onnxruntime.__version__), "onnx": str(onnx.__version__)}


def prepared(entry: str) -> str:
    """The model with its constants folded to initializers; `entry` itself where ONNX Runtime cannot do that."""
    try:
        onnx.save(onnx.load(entry), WHOLE)  # the pre-processing loses external data
        quant_pre_process(WHOLE, PREPARED, skip_symbolic_shape=True)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises many kinds; the quantisation tells what matters
        print(f"not pre-processed: {' '.join(str(error).split())[:500]}", flush=True)  # noqa: T201 - kept with the job
        return entry
    return PREPARED


def quantised_operators(path: str) -> int:
    """Operators of a model that compute with quantised numbers, subgraphs included."""
    waiting = [onnx.load(path, load_external_data=False).graph]
    found = 0
    while waiting:
        for node in waiting.pop().node:
            found += node.op_type.startswith(_QUANTISED) or node.op_type in _QUANTISED_ALSO
            for attribute in node.attribute:
                waiting.extend([attribute.g] if attribute.HasField("g") else attribute.graphs)
    return found


class _Cases(CalibrationDataReader):  # type: ignore[misc]
    """One request after the other, then None."""

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
