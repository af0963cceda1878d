"""Small ONNX files, good and hostile, as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None]

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "FP8E4M3FN": TensorProto.FLOAT8E4M3FN,
    "FP8E4M3FNUZ": TensorProto.FLOAT8E4M3FNUZ,
    "FP8E5M2": TensorProto.FLOAT8E5M2,
    "FP8E5M2FNUZ": TensorProto.FLOAT8E5M2FNUZ,
    "FP8E8M0": TensorProto.FLOAT8E8M0,
    "BYTES": TensorProto.STRING,
}


def one_op(
    op: str, shape: Shape, datatype: str = "FP32", *, out_shape: Shape | None = None, **attributes: int
) -> bytes:
    """y = op(x)."""
    node = helper.make_node(op, ["x"], ["y"], **attributes)
    opset = 19 if datatype.startswith("FP8") else 17  # the first that has them
    sides = [("x", datatype, shape)], [("y", datatype, shape if out_shape is None else out_shape)]
    return _model([node], *sides, opset=opset)


def linear(batch: int | str = "N") -> bytes:
    """y[N,2] = x[N,3] @ [[1,10],[2,20],[3,30]]."""
    weights = numpy_helper.from_array(np.array([[1, 10], [2, 20], [3, 30]], np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return _model([node], [("x", "FP32", [batch, 3])], [("y", "FP32", [batch, 2])], [weights])


def linear_fed_by(feeds: str) -> bytes:
    """As `linear`; the weights come from a node: Constant, or Identity, Transpose or Reshape of an initializer."""
    weights = np.array([[1, 10], [2, 20], [3, 30]], np.float32)
    first = {
        "Constant": helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights, "w")),
        "Identity": helper.make_node("Identity", ["raw"], ["w"]),
        "Transpose": helper.make_node("Transpose", ["raw"], ["w"], perm=[1, 0]),
        "Reshape": helper.make_node("Reshape", ["raw", "shape"], ["w"]),
    }[feeds]
    raw = {"Transpose": weights.T.copy(), "Reshape": weights.ravel()}.get(feeds, weights)
    given = [numpy_helper.from_array(raw, "raw"), numpy_helper.from_array(np.array([3, 2], np.int64), "shape")]
    nodes = [first, helper.make_node("MatMul", ["x", "w"], ["y"])]
    needed = [tensor for tensor in given if tensor.name in first.input]
    return _model(nodes, [("x", "FP32", ["N", 3])], [("y", "FP32", ["N", 2])], needed)


def linear_in_a_branch() -> bytes:
    """y[N,2] = x[N,3] @ w, or @ -w where the sum of x is negative: both in branches of If."""

    def branch(name: str, factor: float) -> GraphProto:
        weights = np.array([[1, 10], [2, 20], [3, 30]], np.float32) * factor
        constant = helper.make_node("Constant", [], [name], value=numpy_helper.from_array(weights.astype(np.float32)))
        out = helper.make_tensor_value_info(f"{name}y", TensorProto.FLOAT, ["N", 2])
        return helper.make_graph([constant, helper.make_node("MatMul", ["x", name], [f"{name}y"])], name, [], [out])

    zero = numpy_helper.from_array(np.array(0, np.float32), "zero")
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Less", ["sum", "zero"], ["negative"]),
        helper.make_node("If", ["negative"], ["y"], then_branch=branch("a", -1), else_branch=branch("b", 1)),
    ]
    return _model(nodes, [("x", "FP32", ["N", 3])], [("y", "FP32", ["N", 2])], [zero])


def scaled(factor: float, width: int) -> bytes:
    """y[N,width] = factor * x[N,width]."""
    by = numpy_helper.from_array(np.array([factor], np.float32), "factor")
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    return _model([node], [("x", "FP32", ["N", width])], [("y", "FP32", ["N", width])], [by])


def with_default() -> bytes:
    """y[N] = x[N] * k[1]; k is 3 where it is not given."""
    default = numpy_helper.from_array(np.array([3], np.float32), "k")
    node = helper.make_node("Mul", ["x", "k"], ["y"])
    return _model([node], [("x", "FP32", ["N"]), ("k", "FP32", [1])], [("y", "FP32", ["N"])], [default])


def sliced_away() -> bytes:
    """y[0,3] = x[N,3][0:0]."""
    ends = [numpy_helper.from_array(np.array([0], np.int64), name) for name in ("start", "end")]
    node = helper.make_node("Slice", ["x", "start", "end"], ["y"])
    return _model([node], [("x", "FP32", ["N", 3])], [("y", "FP32", ["M", 3])], ends)


def deaf() -> bytes:
    """y[3] = [1,2,3] + 0 * x[3]: an export that lost its input."""
    tensors = [
        numpy_helper.from_array(np.array([1, 2, 3], np.float32), "w"),
        numpy_helper.from_array(np.array([0], np.float32), "zero"),
    ]
    nodes = [helper.make_node("Mul", ["x", "zero"], ["nothing"]), helper.make_node("Add", ["w", "nothing"], ["y"])]
    return _model(nodes, [("x", "FP32", [3])], [("y", "FP32", [3])], tensors)


def reshaped_wrongly() -> bytes:
    """y = x[N] as [2, 2]: fails but for four numbers."""
    shape = numpy_helper.from_array(np.array([2, 2], np.int64), "shape")
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    return _model([node], [("x", "FP32", ["N"])], [("y", "FP32", [2, 2])], [shape])


def gather_rows() -> bytes:
    """y[N,2] = table[4,2][x[N]]: an index of 4 or more fails the run."""
    table = numpy_helper.from_array(np.arange(8, dtype=np.float32).reshape(4, 2), "table")
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    return _model([node], [("x", "INT64", ["N"])], [("y", "FP32", ["N", 2])], [table])


def sum_over_items(width: int = 1) -> bytes:
    """y[N,width] = x[N,width] - mean over everything: items influence each other."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return _model(nodes, [("x", "FP32", ["N", width])], [("y", "FP32", ["N", width])])


def two_by_two() -> bytes:
    """sum = a + b, text = text: two inputs of different types and shapes, two outputs."""
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Identity", ["text"], ["copy"])]
    inputs = [("a", "FP32", ["N", "M"]), ("b", "FP32", ["N", "M"]), ("text", "BYTES", ["K"])]
    return _model(nodes, inputs, [("sum", "FP32", ["N", "M"]), ("copy", "BYTES", ["K"])])


def external(location: str, length: int = 12) -> bytes:
    """y = x + w, where w is read from `location` beside the model."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[length // 4])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        weight.external_data.add(key=key, value=value)
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return _model([node], [("x", "FP32", [length // 4])], [("y", "FP32", [length // 4])], [weight])


def external_linear(location: str) -> bytes:
    """y[N,100] = x[N,3] @ w, where w is a Constant node whose numbers are read from `location` beside the model."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 100])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "1200")):
        weight.external_data.add(key=key, value=value)
    nodes = [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("MatMul", ["x", "w"], ["y"])]
    return _model(nodes, [("x", "FP32", ["N", 3])], [("y", "FP32", ["N", 100])])


def endless_loop() -> bytes:
    """Loop with the greatest trip count there is."""
    trips = numpy_helper.from_array(np.array(2**63 - 1, np.int64), "trips")
    return _loop([("x", "FP32", [1])], [trips])


def loop_on_demand() -> bytes:
    """A request says how often: y = x * 2^trips."""
    return _loop([("trips", "INT64", []), ("x", "FP32", [1])], [])


def _loop(inputs: list[tuple[str, str, Shape]], initializers: list[TensorProto]) -> bytes:
    true = numpy_helper.from_array(np.array(True), "true")
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]),
        ],
    )
    node = helper.make_node("Loop", ["trips", "true", "x"], ["y"], body=body)
    return _model([node], inputs, [("y", "FP32", [1])], [*initializers, true])


def memory_bomb(elements: int = 1 << 40) -> bytes:
    """y = x + sum of `elements` zeros."""
    size = numpy_helper.from_array(np.array([elements], np.int64), "size")
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    return _model(nodes, [("x", "FP32", [1])], [("y", "FP32", [1])], [size])


def bomb_on_demand() -> bytes:
    """y = zeros[x[0]], x a size: any memory that a request asks for."""
    node = helper.make_node("ConstantOfShape", ["x"], ["y"])
    return _model([node], [("x", "INT64", [1])], [("y", "FP32", ["n"])])


def overflowing_dimensions() -> bytes:
    """A weight that claims 2^62 x 2^62 elements."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 62, 1 << 62], raw_data=b"1234")
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return _model([node], [("x", "FP32", [1])], [("y", "FP32", None)], [weight])


def sequence_output() -> bytes:
    """An output that is no tensor."""
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, [1])],
    )
    return _finish(graph).SerializeToString()


def write(directory: Path, content: bytes, entry: str = "model.onnx") -> str:
    """Puts the file there, alone; returns the directory."""
    directory.mkdir(exist_ok=True)
    (directory / entry).write_bytes(content)
    return str(directory)


def _model(
    nodes: list[object],
    inputs: list[tuple[str, str, Shape]],
    outputs: list[tuple[str, str, Shape | None]],
    initializers: Sequence[TensorProto] = (),
    opset: int = 17,
) -> bytes:
    def infos(tensors: list[tuple[str, str, Shape | None]]) -> list[object]:
        return [helper.make_tensor_value_info(name, ONNX_TYPES[kind], shape) for name, kind, shape in tensors]

    graph = helper.make_graph(nodes, "g", infos(inputs), infos(outputs), list(initializers))  # type: ignore[arg-type]
    return _finish(graph, opset).SerializeToString()


def _finish(graph: GraphProto, opset: int = 17) -> ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9 if opset > 18 else 8)
