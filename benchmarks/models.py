"""The models that the benchmarks run: LeNet as committed, SqueezeNet with random weights, and a file of any size.

SqueezeNet's graph comes with the `onnx` package (backend/test/data/light); its weights there are one constant, so
random ones of the usual scale take their place: no value degenerates, and every reply can be checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class BenchModel:
    """A model with its one input and one output, both FP32."""

    name: str
    path: Path
    input: str
    item: tuple[int, ...]
    """Shape without the batch dimension."""
    output: str


def lenet() -> BenchModel:
    """3,136 bytes in, 40 bytes out, about 25 µs a run."""
    return BenchModel("lenet", ROOT / "scripts/models/lenet/lenet.onnx", "x", (1, 28, 28), "y")


def squeezenet(folder: Path) -> BenchModel:
    """602,112 bytes in, 4,000 bytes out, about 7 ms a run. Written into `folder`."""
    source = Path(onnx.__file__).parent / "backend/test/data/light/light_squeezenet.onnx"
    model, rng = onnx.load(str(source)), np.random.default_rng(0)
    graph = model.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] in values:
            shape = numpy_helper.to_array(values[node.input[0]]).astype(int)
            fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 0
            weights = rng.standard_normal(shape) * np.sqrt(2 / fan_in) if fan_in else np.full(shape, 0.02)
            graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), node.output[0]))
        else:
            nodes.append(node)
            if node.op_type == "Reshape":
                shape = numpy_helper.to_array(values[node.input[1]]).copy()
                shape[0] = 0 if -1 in shape else -1
                values[node.input[1]].CopyFrom(numpy_helper.from_array(shape, node.input[1]))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    weights_used = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights_used)
    inputs = [i for i in graph.input if i.name not in values]
    del graph.input[:]
    graph.input.extend(inputs)
    for tensor in (graph.input[0], graph.output[0]):
        tensor.type.tensor_type.shape.dim[0].dim_param = "N"
    model.ir_version = 8  # from 4 on, initializers need not be graph inputs
    path = folder / "squeezenet.onnx"
    onnx.save(model, str(path))
    return BenchModel("squeezenet", path, graph.input[0].name, (3, 224, 224), graph.output[0].name)
