"""For every operator of the allow-list a model that is proven and one that is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.support.models.graphs import COUNT, Graph, one

Make = Callable[[], onnx.ModelProto]
ML = "ai.onnx.ml"
i64, f32 = np.int64, np.float32


def ints(*numbers: int) -> Any:
    return np.array(numbers, i64)


def ones(*shape: int) -> Any:
    return np.full(shape, 0.5, f32)


def eights(*shape: int, kind: Any = np.uint8) -> Any:
    return np.full(shape, 2, kind)


CASES: dict[str, tuple[Make, Make]] = {}


def case(op: str, proven: Make, refused: Make) -> None:
    CASES[op] = proven, refused


def _counted(op: str, kind: str = "float", **attributes: Any) -> Make:
    """The number of items through the operator: another number together than alone."""

    def make() -> onnx.ModelProto:
        graph = Graph(attributes.pop("opset", 21)) if "opset" in attributes else Graph(26)
        x = "@" + graph.operand("N,3")
        number: Any = "@" + graph.operand(COUNT)
        if kind == "bool":
            number = graph("Greater", number, np.array(2, f32))
        elif kind != "float":
            number = graph("Cast", number, to=onnx.TensorProto.DataType.Value(kind.upper()))
        made = graph("Cast", graph(op, number, **attributes), to=1)
        return graph.model(graph("Add", x, made))

    return make


UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish IsInf IsNaN"
    " LeakyRelu Log Mish Neg Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan"
    " Tanh ThresholdedRelu"
)
for _op in UNARY.split():
    case(_op, lambda op=_op: one(op, "N,3", opset=24), _counted(_op))  # type: ignore[misc]
case("BitwiseNot", lambda: one("BitwiseNot", "int64 N,3"), _counted("BitwiseNot", "int64"))
case("RegexFullMatch", lambda: one("RegexFullMatch", "string N,3", pattern="a"), _counted("RegexFullMatch", "string"))
case("Identity", lambda: one("Identity", "N,3"), _counted("Identity"))
case("Not", lambda: one("Not", "bool N,3"), _counted("Not", "bool"))
case("Cast", lambda: one("Cast", "N,3", to=7), _counted("Cast", to=7))
case("Clip", lambda: one("Clip", "N,3", np.array(0, f32)), lambda: one("Clip", "N,3", COUNT))
case("Dropout", lambda: one("Dropout", "N,3"), lambda: one("Dropout", "N,3", np.array(0.5, f32), np.array(True)))

FLOATS = "Add Div Max Mean Min Mul Pow PRelu Sub Sum Equal Greater GreaterOrEqual Less LessOrEqual"
for _op in FLOATS.split():
    case(_op, lambda op=_op: one(op, "N,3", ones(3)), lambda op=_op: one(op, "N,3", ones(4, 3)))  # type: ignore[misc]
for _op in ["And", "Or", "Xor"]:
    case(
        _op,
        lambda op=_op: one(op, "bool N,3", np.array([True, False, True])),  # type: ignore[misc]
        lambda op=_op: one(op, "bool N,3", np.ones((2, 3), bool)),  # type: ignore[misc]
    )
for _op in ["BitwiseAnd", "BitwiseOr", "BitwiseXor", "Mod"]:
    case(
        _op,
        lambda op=_op: one(op, "int64 N,3", ints(1, 2, 3)),  # type: ignore[misc]
        lambda op=_op: one(op, "int64 N,3", ints(1, 2, 3).reshape(3, 1)),  # type: ignore[misc]
    )
case(
    "BitShift",
    lambda: one("BitShift", "uint8 N,3", eights(3), direction="LEFT"),
    lambda: one("BitShift", "uint8 N,3", eights(2, 3), direction="LEFT"),
)
case(
    "StringConcat",
    lambda: one("StringConcat", "string N,3", "string N,3"),
    lambda: one("StringConcat", "string N,3", "string 3,N"),
)
case(
    "Where",
    lambda: one("Where", "bool N,3", "N,3", ones(3)),
    lambda: one("Where", "bool N,3", "3,N", ones(3)),
)


def _shaped(op: str) -> onnx.ModelProto:
    """The batch size only as a size: x.reshape(N, 6) of [N, 2, 3]."""
    graph = Graph()
    x = "@" + graph.operand("N,2,3")
    first = graph("Gather", graph("Shape", x), ints(0))
    return graph.model(graph("Reshape", x, graph("Concat", first, ints(-1), axis=0)))


def _sized() -> onnx.ModelProto:
    """Size / Shape[0] is the size of one item."""
    graph = Graph()
    x = "@" + graph.operand("N,2,3")
    rest = graph("Div", graph("Size", x), graph("Gather", graph("Shape", x), np.array(0)))
    return graph.model(graph("Add", x, graph("Cast", rest, to=1)))


def _zeros(*, plus: bool = False) -> onnx.ModelProto:
    """One row of zeros for each item, or for each item and one more."""
    graph = Graph()
    x = "@" + graph.operand("N,3")
    first = graph("Gather", graph("Shape", x), ints(0))
    first = graph("Add", first, ints(1)) if plus else first
    zeros = graph("ConstantOfShape", graph("Concat", first, ints(3), axis=0))
    return graph.model(zeros if plus else graph("Add", x, zeros))


case("Shape", lambda: _shaped("Add"), lambda: one("Shape", "N,3"))
case("Size", _sized, lambda: one("Size", "N,3"))
case("Reshape", lambda: one("Reshape", "N,2,3", ints(-1, 6)), lambda: one("Reshape", "N,2,3", ints(2, -1)))
case("Flatten", lambda: one("Flatten", "N,2,3"), lambda: one("Flatten", "N,2,3", axis=2))
case("Transpose", lambda: one("Transpose", "3,N", perm=[1, 0]), lambda: one("Transpose", "N,3", perm=[1, 0]))
case("Squeeze", lambda: one("Squeeze", "N,1,3", ints(1)), lambda: one("Squeeze", "N,1,3"))
case("Unsqueeze", lambda: one("Unsqueeze", "N,3", ints(1)), lambda: one("Unsqueeze", "N,3", ints(0)))
case("Expand", lambda: one("Expand", "N,1", ints(1, 3)), lambda: one("Expand", "N,3", ints(4, 3)))
case("ConstantOfShape", _zeros, lambda: _zeros(plus=True))
case("Tile", lambda: one("Tile", "N,3", ints(1, 2)), lambda: one("Tile", "N,3", ints(2, 1)))


case("Gather", lambda: one("Gather", "N,3", ints(2, 0), axis=1), lambda: one("Gather", "N,3", ints(0), axis=0))
case(
    "GatherElements",
    lambda: one("GatherElements", "N,3", "int64 N,2", axis=1),
    lambda: one("GatherElements", ones(4, 3), "int64 N,2", axis=1),
)
case(
    "GatherND", lambda: one("GatherND", ones(4, 3), "int64 N,1"), lambda: one("GatherND", "N,3", ints(0).reshape(1, 1))
)
case(
    "ScatterElements",
    lambda: one("ScatterElements", "N,4", "int64 N,2", "N,2", axis=1),
    lambda: one("ScatterElements", "N,4", "int64 N,2", "N,2", axis=0),
)
case("Concat", lambda: one("Concat", "N,3", "N,2", axis=1), lambda: one("Concat", "N,3", ones(2, 3), axis=0))
case(
    "Split",
    lambda: one("Split", "N,4", ints(1, 3), outputs=2, use=1, axis=1),
    lambda: one("Split", "N,4", outputs=2, axis=0, num_outputs=2),
)
case(
    "Slice",
    lambda: one("Slice", "N,4", ints(0, 1), ints(2**63 - 1, 3), ints(0, 1)),
    lambda: one("Slice", "N,4", ints(0), ints(1), ints(0)),
)
case("Pad", lambda: one("Pad", "N,3", ints(0, 1, 0, 2)), lambda: one("Pad", "N,3", ints(1, 0, 0, 0)))
case("TopK", lambda: one("TopK", "N,3", ints(2), outputs=2), lambda: one("TopK", "N,3", ints(1), outputs=2, axis=0))
case(
    "OneHot",
    lambda: one("OneHot", "int64 N", np.array(4), np.array([0, 1], f32)),
    lambda: one("OneHot", "int64 N", np.array(4), np.array([0, 1], f32), axis=0),
)
case("Trilu", lambda: one("Trilu", "N,3,3"), lambda: one("Trilu", "N,3"))
case("CumSum", lambda: one("CumSum", "N,3", np.array(1)), lambda: one("CumSum", "N,3", np.array(0)))
case(
    "CumProd",
    lambda: one("CumProd", "N,3", np.array(1), opset=26),
    lambda: one("CumProd", "N,3", np.array(-2), opset=26),
)
case("Range", lambda: _ranged(np.array(3)), lambda: _ranged(None))
case(
    "ReverseSequence",
    lambda: one("ReverseSequence", "3,N", "int64 N", batch_axis=1, time_axis=0, back=[1, 0]),
    lambda: one("ReverseSequence", "N,3", ints(1, 1, 1), batch_axis=1, time_axis=0),
)


def _ranged(limit: Any) -> onnx.ModelProto:
    """x + [0, 1, 2], or + [0, ... N-1] over the items."""
    graph = Graph()
    x = "@" + graph.operand("N,3")
    end = limit if limit is not None else graph("Gather", graph("Shape", x), np.array(0))
    row = graph("Cast", graph("Range", np.array(0), end, np.array(1)), to=1)
    return graph.model(graph("Add", x, row if limit is not None else graph("Unsqueeze", row, ints(1))))


for _op in ["L1", "L2", "LogSum", "LogSumExp", "Mean", "Prod", "Sum", "SumSquare"]:
    case(
        f"Reduce{_op}",
        lambda op=f"Reduce{_op}": one(op, "N,3", ints(-1)),  # type: ignore[misc]
        lambda op=f"Reduce{_op}": one(op, "N,3", ints(-2)),  # type: ignore[misc]
    )
for _op in ["ArgMax", "ArgMin", "Softmax", "LogSoftmax", "LpNormalization"]:
    case(_op, lambda op=_op: one(op, "N,3", axis=-1), lambda op=_op: one(op, "N,3", axis=0))  # type: ignore[misc]
case(
    "LayerNormalization",
    lambda: one("LayerNormalization", "N,4,3", ones(3), ones(3)),
    lambda: one("LayerNormalization", "N,3", ones(3), axis=0),
)
case(
    "RMSNormalization",
    lambda: one("RMSNormalization", "N,4,3", ones(3), opset=23),
    lambda: one("RMSNormalization", "N,3", ones(5, 3), opset=23),
)
case(
    "MeanVarianceNormalization",
    lambda: one("MeanVarianceNormalization", "N,3,4,4", axes=[2, 3]),
    lambda: one("MeanVarianceNormalization", "N,3,4,4"),
)

case("MatMul", lambda: one("MatMul", "N,3", ones(3, 2)), lambda: one("MatMul", "3,N", "N,3"))
case(
    "MatMulInteger",
    lambda: one("MatMulInteger", "uint8 N,3", eights(3, 2), eights()),
    lambda: one("MatMulInteger", "uint8 N,3", eights(3, 2), eights(4)),
)
_Q = (np.array(0.5, f32), eights())
case(
    "QLinearMatMul",
    lambda: one("QLinearMatMul", "uint8 N,3", *_Q, eights(3, 2), *_Q, *_Q),
    lambda: one("QLinearMatMul", "uint8 N,3", ones(4), eights(4), eights(3, 2), *_Q, *_Q),
)
case(
    "Gemm",
    lambda: one("Gemm", "3,N", ones(3, 2), ones(2), transA=1),
    lambda: one("Gemm", "N,3", ones(3, 2), ones(4, 2)),
)
case(
    "Einsum",
    lambda: one("Einsum", "N,2,3", "N,3,2", equation="bij,bjk->bik"),
    lambda: one("Einsum", "N,2,3", "N,3,2", equation="bij,cjk->bik"),
)

W = ones(2, 3, 3, 3)
case("Conv", lambda: one("Conv", "N,3,8,8", W, pads=[1, 1, 1, 1]), lambda: one("Conv", "3,N,8,8", ones(2, 3, 3, 3)))
case(
    "ConvInteger",
    lambda: one("ConvInteger", "uint8 N,3,8,8", eights(2, 3, 3, 3)),
    lambda: one("ConvInteger", "uint8 3,N,8,8", eights(2, 3, 3, 3)),
)
case(
    "QLinearConv",
    lambda: one("QLinearConv", "uint8 N,3,8,8", *_Q, eights(2, 3, 3, 3), *_Q, *_Q),
    lambda: one("QLinearConv", "uint8 3,N,8,8", *_Q, eights(2, 3, 3, 3), *_Q, *_Q),
)
case(
    "ConvTranspose",
    lambda: one("ConvTranspose", "N,3,4,4", ones(3, 2, 2, 2)),
    lambda: one("ConvTranspose", ones(1, 3, 4, 4), "N,2,2,2"),
)
for _op in ["MaxPool", "AveragePool", "LpPool"]:
    case(
        _op,
        lambda op=_op: one(op, "N,3,8,8", kernel_shape=[2, 2]),  # type: ignore[misc]
        lambda op=_op: one(op, "3,N,8,8", kernel_shape=[2, 2], back=[1, 0, 2, 3]),  # type: ignore[misc]
    )
for _op in ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"]:
    case(
        _op,
        lambda op=_op: one(op, "N,3,4,4"),  # type: ignore[misc]
        lambda op=_op: one(op, "3,2,N,4", back=[2, 0, 1, 3]),  # type: ignore[misc]
    )
_BN = (ones(3), ones(3), ones(3), ones(3))
case(
    "BatchNormalization",
    lambda: one("BatchNormalization", "N,3,4,4", *_BN),
    lambda: one("BatchNormalization", "N,3,4,4", *_BN, outputs=3, training_mode=1),
)
case(
    "InstanceNormalization",
    lambda: one("InstanceNormalization", "N,3,4,4", ones(3), ones(3)),
    lambda: one("InstanceNormalization", "3,2,N,4", ones(2), ones(2), back=[2, 0, 1, 3]),
)
case(
    "GroupNormalization",
    lambda: one("GroupNormalization", "N,4,4,4", ones(4), ones(4), num_groups=2),
    lambda: one("GroupNormalization", "4,N,4,4", ones(4), ones(4), num_groups=2, back=[1, 0, 2, 3]),
)
case("LRN", lambda: one("LRN", "N,3,4,4", size=3), lambda: one("LRN", "3,N,4,4", size=3, back=[1, 0, 2, 3]))
case(
    "DepthToSpace",
    lambda: one("DepthToSpace", "N,8,2,2", blocksize=2),
    lambda: one("DepthToSpace", "2,N,2,2", blocksize=2, back=[1, 0, 2, 3]),
)
case(
    "SpaceToDepth",
    lambda: one("SpaceToDepth", "N,2,4,4", blocksize=2),
    lambda: one("SpaceToDepth", "2,2,N,4", blocksize=2, back=[2, 0, 1, 3]),
)
case(
    "Resize",
    lambda: one("Resize", "N,3,4,4", None, np.array([1, 1, 2, 2], f32)),
    lambda: one("Resize", "N,3,4,4", None, np.array([2, 1, 1, 1], f32)),
)
case(
    "Upsample",
    lambda: one("Upsample", "N,3,4,4", np.array([1, 1, 2, 2], f32), opset=9),
    lambda: one("Upsample", "N,3,4,4", np.array([2, 1, 1, 1], f32), opset=9),
)
case(
    "GridSample",
    lambda: one("GridSample", "N,3,4,4", "N,2,2,2"),
    lambda: one("GridSample", "N,3,4,4", ones(1, 2, 2, 2)),
)

for _op, _gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    _weights = ones(1, _gates * 2, 3), ones(1, _gates * 2, 2)
    case(
        _op,
        lambda op=_op, w=_weights: one(op, "5,N,3", *w, hidden_size=2, back=[2, 0, 1, 3]),  # type: ignore[misc]
        lambda op=_op, w=_weights: one(op, "N,5,3", *w, hidden_size=2),  # type: ignore[misc]
    )

case(
    "QuantizeLinear",
    lambda: one("QuantizeLinear", "N,3", ones(3), eights(3), axis=1),
    lambda: one("QuantizeLinear", "N,3", ones(3), eights(3), axis=0),
)
case(
    "DequantizeLinear",
    lambda: one("DequantizeLinear", "uint8 N,3", *_Q),
    lambda: one("DequantizeLinear", "uint8 N,3", ones(3), eights(3), axis=0),
)


def _beside(op: str, *operands: Any, outputs: int = 1, **attributes: Any) -> onnx.ModelProto:
    """x + something that is made of constants."""
    graph = Graph()
    x = "@" + graph.operand("N,3")
    names = [graph.operand(each) for each in operands]
    first = graph.node(op, names, [graph.name() for _ in range(outputs)], **attributes)[0]
    made = graph("ReduceMax", graph("Cast", f"@{first}", to=1), keepdims=0)
    return graph.model(graph("Add", x, graph("Reshape", made, ints(1))))


case(
    "DynamicQuantizeLinear",
    lambda: _beside("DynamicQuantizeLinear", ones(3), outputs=3),
    lambda: one("DynamicQuantizeLinear", "N,3", outputs=3),
)
for _op in ["ReduceMax", "ReduceMin", "Hardmax"]:
    case(_op, lambda op=_op: _beside(op, ones(3, 3)), lambda op=_op: one(op, "N,3,3", axis=-1))  # type: ignore[misc]
case("CastLike", lambda: _beside("CastLike", ones(3), ints(1)), lambda: one("CastLike", "N,3", ints(1)))
case("NonZero", lambda: _beside("NonZero", ones(3)), lambda: one("NonZero", "N,3", back=[1, 0]))
case("EyeLike", lambda: _beside("EyeLike", ones(3, 3)), lambda: one("EyeLike", "N,3"))
case(
    "ScatterND",
    lambda: _beside("ScatterND", ones(4), ints(1).reshape(1, 1), ones(1)),
    lambda: one("ScatterND", "N,3", ints(0).reshape(1, 1), ones(1, 3)),
)
case(
    "Compress",
    lambda: _beside("Compress", ones(3), np.array([True])),
    lambda: one("Compress", "N,3", np.array([True]), axis=1),
)
case("Det", lambda: _beside("Det", ones(2, 2)), lambda: one("Det", "N,3,3"))


def _plain(name: str, shape: list[Any], kind: int = 1) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _branch(*nodes: onnx.NodeProto, out: str) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "branch", [], [onnx.ValueInfoProto(name=out)])


def _if(*, by_items: bool) -> onnx.ModelProto:
    graph = Graph()
    x = graph.operand("N,3")
    total = graph("ReduceSum", f"@{x}" if by_items else ones(3), keepdims=0)
    more = graph("Greater", total, np.array(0, f32))
    then = _branch(helper.make_node("Relu", [x], ["a"]), out="a")
    other = _branch(helper.make_node("Neg", [x], ["b"]), out="b")
    return graph.model(graph("If", more, then_branch=then, else_branch=other))


def _loop(*, op: str) -> onnx.ModelProto:
    graph = Graph()
    x = "@" + graph.operand("N,3")
    nodes = [
        helper.make_node("Identity", ["go"], ["on"]),
        helper.make_node(op, ["v"], ["w"], **({"axis": 0} if op == "Softmax" else {})),
    ]
    body = helper.make_graph(
        nodes,
        "body",
        [_plain("i", [], 7), _plain("go", [], 9), _plain("v", ["a", "b"])],
        [_plain("on", [], 9), _plain("w", ["a", "b"])],
    )
    return graph.model(graph("Loop", np.array(3), np.array(True), x, body=body))


def _scan(*, along: int) -> onnx.ModelProto:
    """A running total along one axis."""
    graph = Graph()
    x = "@" + graph.operand("N,3")
    start = graph("ReduceSum", graph("Mul", x, np.array(0, f32)), ints(along), keepdims=0)
    nodes = [helper.make_node("Add", ["s", "p"], ["t"]), helper.make_node("Identity", ["t"], ["u"])]
    body = helper.make_graph(
        nodes, "body", [_plain("s", ["a"]), _plain("p", ["a"])], [_plain("t", ["a"]), _plain("u", ["a"])]
    )
    made = graph.node(
        "Scan",
        [start[1:], x[1:]],
        ["last", "all"],
        body=body,
        num_scan_inputs=1,
        scan_input_axes=[along],
        scan_output_axes=[along],
    )
    return graph.model(made[1])


case("Constant", lambda: _constant("Add"), lambda: _constant(""))
case("If", lambda: _if(by_items=False), lambda: _if(by_items=True))
case("Loop", lambda: _loop(op="Relu"), lambda: _loop(op="Softmax"))
case("Scan", lambda: _scan(along=1), lambda: _scan(along=0))


def _constant(op: str) -> onnx.ModelProto:
    graph = Graph()
    x = "@" + graph.operand("N,3")
    value = graph("Constant", value_floats=[1.0, 2.0, 3.0])
    return graph.model(graph(op, x, value) if op else graph("Unsqueeze", value, ints(0)))


case(
    "ml.Binarizer",
    lambda: one("Binarizer", "N,3", domain=ML, threshold=0.5),
    _counted("Binarizer", domain=ML, threshold=0.5),
)
case(
    "ml.LabelEncoder",
    lambda: one("LabelEncoder", "int64 N,3", domain=ML, keys_int64s=[1, 2], values_floats=[0.5, 1.5]),
    _counted("LabelEncoder", "int64", domain=ML, keys_int64s=[1, 2], values_floats=[0.5, 1.5]),
)
case(
    "ml.OneHotEncoder",
    lambda: one("OneHotEncoder", "int64 N,3", domain=ML, cats_int64s=[0, 1, 2]),
    _counted("OneHotEncoder", "int64", domain=ML, cats_int64s=[0, 1, 2]),
)
_ROWS: dict[str, dict[str, Any]] = {
    "Imputer": {"imputed_value_floats": [1.0, 2.0, 3.0], "replaced_value_float": 0.0},
    "Scaler": {"offset": [1.0, 2.0, 3.0], "scale": [1.0, 0.5, 2.0]},
    "Normalizer": {"norm": "L2"},
    "LinearRegressor": {"coefficients": [1.0, 2.0, 3.0], "intercepts": [0.5], "targets": 1},
}
for _op, _words in _ROWS.items():
    case(
        f"ml.{_op}",
        lambda op=_op, w=_words: one(op, "N,3", domain=ML, **w),  # type: ignore[misc]
        lambda op=_op, w=_words: one(op, "3,N", domain=ML, back=[1, 0], **w),  # type: ignore[misc]
    )
_LINES = {
    "coefficients": [1.0, -2.0, 3.0, 0.0, 1.0, 0.5],
    "intercepts": [0.5, 0.0],
    "classlabels_ints": [0, 1],
    "multi_class": 0,
    "post_transform": "NONE",
}
case(
    "ml.LinearClassifier",
    lambda: one("LinearClassifier", "N,3", domain=ML, outputs=2, use=1, **_LINES),
    lambda: one("LinearClassifier", "N", domain=ML, outputs=2, **_LINES),
)
_TREE: dict[str, Any] = {
    "nodes_treeids": [0, 0, 0],
    "nodes_nodeids": [0, 1, 2],
    "nodes_featureids": [1, 0, 0],
    "nodes_values": [0.25, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
}
_TARGETS = {
    "target_treeids": [0, 0],
    "target_nodeids": [1, 2],
    "target_ids": [0, 0],
    "target_weights": [1.0, 2.0],
    "n_targets": 1,
}
_CLASSES = {
    "class_treeids": [0, 0],
    "class_nodeids": [1, 2],
    "class_ids": [0, 1],
    "class_weights": [1.0, 1.0],
    "classlabels_int64s": [0, 1],
}
case(
    "ml.TreeEnsembleRegressor",
    lambda: one("TreeEnsembleRegressor", "N,3", domain=ML, **_TREE, **_TARGETS),
    lambda: one("TreeEnsembleRegressor", "3,N", domain=ML, back=[1, 0], **_TREE, **_TARGETS),
)
case(
    "ml.TreeEnsembleClassifier",
    lambda: one("TreeEnsembleClassifier", "N,3", domain=ML, outputs=2, **_TREE, **_CLASSES),
    lambda: one("TreeEnsembleClassifier", "N", domain=ML, outputs=2, **_TREE, **_CLASSES),
)
case(
    "ml.FeatureVectorizer",
    lambda: one("FeatureVectorizer", "N,2", "N,3", domain=ML, inputdimensions=[2, 3]),
    lambda: one("FeatureVectorizer", "N,2", "N", domain=ML, inputdimensions=[2, 1]),
)
case(
    "ml.ArrayFeatureExtractor",
    lambda: one("ArrayFeatureExtractor", "N,3", ints(0, 2), domain=ML),
    lambda: one("ArrayFeatureExtractor", "3,N", ints(0), domain=ML),
)
case(
    "TfIdfVectorizer",
    lambda: one(
        "TfIdfVectorizer",
        "int64 N,4",
        mode="TF",
        min_gram_length=1,
        max_gram_length=1,
        max_skip_count=0,
        ngram_counts=[0],
        ngram_indexes=[0, 1],
        pool_int64s=[1, 2],
    ),
    lambda: one(
        "TfIdfVectorizer",
        "int64 N",
        mode="TF",
        min_gram_length=1,
        max_gram_length=1,
        max_skip_count=0,
        ngram_counts=[0],
        ngram_indexes=[0, 1],
        pool_int64s=[1, 2],
    ),
)
