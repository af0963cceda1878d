"""The models that a hardware check serves: LeNet as committed, SqueezeNet with random weights, a small FP16 network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save

from benchmarks.models import lenet, squeezenet


@dataclass(frozen=True)
class CheckModel:
    """A model with one input and one output."""

    name: str
    path: Path
    input: str
    item: tuple[int, ...]
    """Shape without the batch dimension."""
    output: str
    datatype: str = "FP32"
    tolerance: float = 1e-3
    """Largest accepted difference to ONNX Runtime on the CPU, relative to max(1, |value|): FP16 has 11 bits."""

    def items(self, count: int) -> NDArray[np.floating]:
        """Inputs of `count` requests, the same every time."""
        rng = np.random.default_rng(7)
        return rng.random((count, *self.item), np.float32).astype(np.float16 if self.datatype == "FP16" else np.float32)


def check_models(folder: Path) -> list[CheckModel]:
    """The three models; the ones that are made are written into `folder`."""
    found = [CheckModel(m.name, m.path, m.input, m.item, m.output) for m in (lenet(), squeezenet(folder))]
    return [*found, _half(folder / "half.onnx")]


def _half(path: Path) -> CheckModel:
    """y[N,10] = softmax(pool(relu(conv(x[N,3,64,64])))), all of it in FP16."""
    rng = np.random.default_rng(3)
    weights = {
        "w1": rng.standard_normal((32, 3, 3, 3)) * 0.2,
        "w2": rng.standard_normal((64, 32, 3, 3)) * 0.06,
        "w3": rng.standard_normal((64, 10)) * 0.1,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"], axis=1),
        helper.make_node("MatMul", ["f", "w3"], ["g"]),
        helper.make_node("Softmax", ["g"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", 3, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["N", 10])],
        [numpy_helper.from_array(value.astype(np.float16), name) for name, value in weights.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return CheckModel("half", path, "x", (3, 64, 64), "y", "FP16", 2e-2)


def checkpoint(folder: Path) -> tuple[CheckModel, Path]:
    """The catalogue's network lenet5 with random weights: as ONNX, to compare with, and as a safetensors checkpoint."""
    rng = np.random.default_rng(11)
    sizes = {"conv1.weight": (6, 1, 5, 5), "conv2.weight": (16, 6, 5, 5), "fc1.weight": (120, 400), "fc1.bias": (120,),
             "fc2.weight": (84, 120), "fc2.bias": (84,), "fc3.weight": (10, 84), "fc3.bias": (10,)}  # fmt: skip
    weights = {n: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]) or 1)).astype(np.float32) for n, s in sizes.items()}
    header, at = {}, 0
    for name, array in weights.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    path = folder / "lenet5.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in weights.values()))
    nodes, last = [], "x"
    for conv in ("conv1", "conv2"):
        nodes += [
            helper.make_node("Conv", [last, f"{conv}.weight"], [f"{conv}.y"]),
            helper.make_node("Relu", [f"{conv}.y"], [f"{conv}.relu"]),
            helper.make_node("MaxPool", [f"{conv}.relu"], [f"{conv}.out"], kernel_shape=[2, 2], strides=[2, 2]),
        ]
        last = f"{conv}.out"
    nodes.append(helper.make_node("Flatten", [last], ["flat"]))
    for dense, source, out in (("fc1", "flat", "a"), ("fc2", "a.relu", "b"), ("fc3", "b.relu", "y")):
        nodes.append(helper.make_node("Gemm", [source, f"{dense}.weight", f"{dense}.bias"], [out], transB=1))
        if out != "y":
            nodes.append(helper.make_node("Relu", [out], [f"{out}.relu"]))
    graph = helper.make_graph(
        nodes,
        "lenet5",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx = folder / "lenet5.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(onnx))
    return CheckModel("lenet5", onnx, "x", (1, 32, 32), "y"), path
