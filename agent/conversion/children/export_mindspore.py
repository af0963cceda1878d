"""Checkpoint to ONNX, MindIR or AIR, by MindSpore. One export a process: a second one of the same network fails.

Run by `run.py` under MindSpore's interpreter: standard library, NumPy and MindSpore only, Python 3.9 syntax.

    {"network": name, "arguments": {}, "entry": path, "to": format, "out": path, "shape": [null, 1, 28, 28],
     "inputs": [name], "outputs": [name], "device": "CPU" | "Ascend"}
"""

from __future__ import annotations

import os
from typing import Any

import mindspore
import numpy

from agent.backends import mindspore_checkpoint


def work(order: dict[str, Any]) -> dict[str, str]:
    """Does it. Raises BackendError for a checkpoint that is not the network's, and what MindSpore raises."""
    mindspore.set_device(order["device"])
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    network = mindspore_checkpoint.build(order["network"], order["arguments"])
    mindspore_checkpoint.fill(mindspore, network, order["entry"], order["network"])
    network.set_train(False)
    example = mindspore.Tensor(shape=order["shape"], dtype=mindspore.float32)
    if order["to"] == "onnx":
        _to_onnx(network, order)
    elif order["to"] == "mindir":
        mindspore.export(network, example, file_name=order["out"], file_format="MINDIR")
    else:
        fixed = [1 if dim is None else dim for dim in order["shape"]]
        zeros = mindspore.Tensor(numpy.zeros(fixed, numpy.float32))
        mindspore.export(network, zeros, file_name=order["out"], file_format="AIR")
    os.chmod(order["out"], 0o640)  # MindSpore leaves its files read-only for itself
    return {"mindspore": str(mindspore.__version__), "numpy": str(numpy.__version__)}


def _to_onnx(network: Any, order: dict[str, Any]) -> None:
    """Exported with a batch of one; the names and the open dimensions are those of the order."""
    fixed = [1 if dim is None else dim for dim in order["shape"]]
    names = {"input_names": order["inputs"], "output_names": order["outputs"]}
    axes = {str(axis): f"d{axis}" if axis else "batch" for axis, dim in enumerate(order["shape"]) if dim is None}
    if axes:
        names["dynamic_axes"] = {order["inputs"][0]: {int(axis): label for axis, label in axes.items()}}
    zeros = mindspore.Tensor(numpy.zeros(fixed, numpy.float32))
    mindspore.onnx.export(network, zeros, file_name=order["out"], **names)
