"""What a careless proof would fall into: each is refused, with the node or the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from registry.contracts.catalogue.batching import Basis
from registry.inspection.independence.walk import examine
from tests.support.models.graphs import COUNT, Graph, one

f32, i64 = np.float32, np.int64
Make = Callable[[], onnx.ModelProto]


def ints(*numbers: int) -> Any:
    return np.array(numbers, i64)


def ones(*shape: int) -> Any:
    return np.full(shape, 0.5, f32)


def custom() -> onnx.ModelProto:
    return one("Relu", "N,3", domain="com.example")


def of_a_newer_opset() -> onnx.ModelProto:
    return one("Relu", "N,3", opset=99)


def random_like() -> onnx.ModelProto:
    graph = Graph()
    x = "@" + graph.operand("N,3")
    return graph.model(graph("Add", x, graph("RandomNormal", shape=[3])))


def by_the_batch_size() -> onnx.ModelProto:
    """x where there are two items, else 0."""
    graph = Graph()
    x = "@" + graph.operand("N,3")
    two = graph("Equal", graph("Gather", graph("Shape", x), np.array(0)), np.array(2))
    return graph.model(graph("Where", two, x, np.array(0, f32)))


def mean_by_hand() -> onnx.ModelProto:
    """The sum over the run by a product with a row of ones, divided by the number of items."""
    graph = Graph()
    x = "@" + graph.operand("N,3")
    count = graph("Gather", graph("Shape", x), ints(0))
    row = graph("ConstantOfShape", graph("Concat", ints(1), count, axis=0))
    return graph.model(graph("Add", x, graph("MatMul", row, x)))


def through_one_row() -> onnx.ModelProto:
    """[N, 3] to [1, N*3], normalised, and back."""
    graph = Graph()
    x = "@" + graph.operand("N,3")
    row = graph("Softmax", graph("Reshape", x, ints(1, -1)), axis=-1)
    return graph.model(graph("Reshape", row, ints(-1, 3)))


def row_by_row() -> onnx.ModelProto:
    """[N, 4] read as [4, N]: elements of different items side by side."""
    graph = Graph()
    x = "@" + graph.operand("N,4")
    size = graph("Gather", graph("Shape", x), ints(0))
    turned = graph("Reshape", x, graph("Concat", ints(4), size, axis=0))
    return graph.model(graph("Transpose", turned, perm=[1, 0]))


def two_rows_an_item() -> onnx.ModelProto:
    """[N, 4] to [N*2, 2]: not one row for each item."""
    return one("Reshape", "N,4", ints(-1, 2))


def in_a_function(op: str) -> onnx.ModelProto:
    """The operator inside a function of the model's own."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    node = helper.make_node(op, ["a"], ["b"], **({"axis": 0} if op == "Softmax" else {}))
    function = helper.make_function("own", "Inner", ["a"], ["b"], [node], opsets[:1])
    info = [helper.make_tensor_value_info(name, 1, ["N", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Inner", ["x"], ["y"], domain="own")], "g", info[:1], info[1:])
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)


def same_name_other_axis() -> onnx.ModelProto:
    """x[N, N]: the second N is another size, whatever it is called."""
    graph = Graph()
    x = "@" + graph.operand("N,N")
    return graph.model(graph("Add", x, graph("Transpose", x, perm=[1, 0])))


def attention_over_the_items() -> onnx.ModelProto:
    graph = Graph()
    x = "@" + graph.operand("N,4")
    scores = graph("Softmax", graph("MatMul", x, graph("Transpose", x, perm=[1, 0])), axis=-1)
    return graph.model(graph("MatMul", scores, x))


def last_of_the_run() -> onnx.ModelProto:
    graph = Graph()
    x = "@" + graph.operand("N,4")
    return graph.model(graph("Sub", x, graph("Slice", x, ints(-1), ints(2**63 - 1), ints(0))))


def positions_of_the_items() -> onnx.ModelProto:
    """A table of positions, cut to the number of items."""
    graph = Graph()
    x = "@" + graph.operand("N,4")
    size = graph("Gather", graph("Shape", x), ints(0))
    return graph.model(graph("Add", x, graph("Slice", ones(64, 4), ints(0), size, ints(0))))


TRAPS: dict[str, tuple[Make, str]] = {
    "an operator of another domain": (custom, "(Relu): this operator is not one"),
    "an opset that nobody has read": (of_a_newer_opset, "opset 99 is not known"),
    "a random operator without inputs": (random_like, "(RandomNormal): this operator"),
    "a random operator over the items": (lambda: one("Bernoulli", "N,3"), "(Bernoulli): this operator"),
    "draws from scores": (lambda: one("Multinomial", "N,3"), "(Multinomial): this operator"),
    "a condition on the batch size": (by_the_batch_size, "the number of items is used as data"),
    "the batch size as a number": (lambda: one("Mul", "N,3", COUNT), "the number of items is used as data"),
    "a mean by a product": (mean_by_hand, "sums over the axis of the items"),
    "a row of all items": (through_one_row, "(Softmax): it normalises along the axis of the items"),
    "items read across": (row_by_row, "mixes the items with what stands before them"),
    "two rows for an item": (two_rows_an_item, "not one row for each item"),
    "a reshape with a constant first size": (lambda: one("Reshape", "N,4", ints(1, -1)), "not one row for each item"),
    "a reshape to a constant shape": (lambda: one("Reshape", "N,4", ints(1, 4)), "does not follow the N*4"),
    "softmax over two axes before opset 13": (
        lambda: one("Softmax", "4,N", axis=0, opset=11, back=[1, 0]),
        "normalises",
    ),
    "softmax over all axes before opset 13": (lambda: one("Softmax", "N,4", axis=0, opset=11), "normalises"),
    "a constant with many rows": (lambda: one("Add", "N,3", ones(8, 3)), "a constant has 8 rows"),
    "a constant of higher rank": (lambda: one("Add", "N,3", ones(2, 1, 3)), "not one row for each item"),
    "a constant across": (lambda: one("Add", "N", ones(3, 1)), "not one row for each item"),
    "items against items across": (lambda: one("Add", "N,3", "3,N"), "along different axes"),
    "an input of items only against rows": (lambda: one("Add", "N,3", "N"), "along different axes"),
    "no axes to squeeze": (lambda: one("Squeeze", "N,1,3"), "whatever axis has one row"),
    "no axes to reduce": (lambda: one("ReduceSum", "N,3"), "reduces over the axis of the items"),
    "axes of the request": (lambda: one("ReduceSum", "N,3", "int64 N"), "not known when the model is published"),
    "indices over the whole run": (
        lambda: one("MaxPool", "N,1,4,4", kernel_shape=[2, 2], outputs=2, use=1),
        "indices count over the whole run",
    ),
    "statistics of the run": (
        lambda: one("BatchNormalization", "N,3,4,4", *[ones(3)] * 4, outputs=3, opset=15, training_mode=1),
        "training mode",
    ),
    "statistics by default in opset 6": (
        lambda: one("BatchNormalization", "N,3,4,4", *[ones(3)] * 4, opset=6),
        "training mode",
    ),
    "dropout by an input": (lambda: one("Dropout", "N,3", None, "bool N"), "depends on the items"),
    "weights that are items": (lambda: one("MatMul", "N,3", "3,N"), "across rows"),
    "a slope of items for a constant": (lambda: one("PRelu", ones(1, 3), "N,3"), "its slope does not broadcast"),
    "unique rows": (lambda: one("Unique", "N,3", axis=0), "(Unique): this operator"),
    "words dropped": (lambda: one("StringNormalizer", "string N"), "(StringNormalizer): this operator"),
    "the longest text of the run": (lambda: one("StringSplit", "string N", outputs=2), "(StringSplit): this operator"),
    "attention over the items": (attention_over_the_items, "items"),
    "the last of the run": (last_of_the_run, "cuts along the axis of the items"),
    "positions by the batch size": (positions_of_the_items, "on their number"),
    "a matrix of any size against its turn": (same_name_other_axis, "along different axes"),
    "a scale for each row": (
        lambda: one("QuantizeLinear", "N,3", ones(3), np.zeros(3, np.uint8), axis=0),
        "one scale for each row",
    ),
    "time first, said to be items first": (
        lambda: one("RNN", "N,5,3", ones(1, 2, 3), ones(1, 2, 2), hidden_size=2, layout=0),
        "along its axis of time",
    ),
    "one first state for all": (
        lambda: one("RNN", "5,N,3", ones(1, 2, 3), ones(1, 2, 2), None, None, ones(1, 1, 2), hidden_size=2),
        "first state is not one for each item",
    ),
    "a function that mixes": (lambda: in_a_function("Softmax"), "normalises along the axis of the items"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_it_is_refused_and_said_why(name: str) -> None:
    make, why = TRAPS[name]
    found = examine(make())
    assert not found.independent
    assert why in found.why
    assert found.basis is Basis.GRAPH


def test_a_function_of_the_models_own_is_followed() -> None:
    assert examine(in_a_function("Softplus")).independent


def info(name: str, shape: list[Any] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, 1, shape)


def graph_of(
    nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], constants: Any = ()
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


C = onnx.numpy_helper.from_array(ones(1, 3), "c")
RELU = helper.make_node("Relu", ["x"], ["y"])


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (graph_of([RELU], [info("x", [1, 3])], [info("y", [1, 3])]), "no free first dimension"),
        (graph_of([RELU], [info("x", [])], [info("y", [])]), "no free first dimension"),
        (graph_of([RELU], [info("x", None)], [info("y", None)]), "has no known shape"),
        (graph_of([], [], [info("c", [1, 3])], [C]), "it has no inputs"),
        (graph_of([], [info("x", ["N", 3])], [info("c", [1, 3])], [C]), "does not depend on the items"),
        (graph_of([RELU], [info("x", ["N", 3]), info("k", [2])], [info("y", ["N", 3])]), "input 'k' has no free"),
        (graph_of([], [info("x", ["N", 3])], [info("z", ["N", 3])]), "is made by no node"),
        (
            graph_of([helper.make_node("Relu", ["gone"], ["y"])], [info("x", ["N", 3])], [info("y", ["N", 3])]),
            "takes a tensor that is not there",
        ),
    ],
)
def test_inputs_and_outputs_that_hold_no_items_are_refused(model: onnx.ModelProto, why: str) -> None:
    found = examine(model)
    assert not found.independent
    assert why in found.why


def test_an_output_that_is_an_input_is_proven() -> None:
    assert examine(graph_of([], [info("x", ["N", 3])], [info("x", ["N", 3])])).independent


def test_what_no_output_needs_does_not_matter() -> None:
    unused = helper.make_node("CumSum", ["x", "x"], ["z"])
    assert examine(graph_of([RELU, unused], [info("x", ["N", 3])], [info("y", ["N", 3])])).independent


def nested(depth: int) -> onnx.ModelProto:
    """Branches in branches."""

    def branch(node: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph([node], "b", [], [onnx.ValueInfoProto(name="b")])

    inner = other = branch(helper.make_node("Relu", ["x"], ["b"]))
    for _ in range(depth):
        inner = branch(helper.make_node("If", ["go"], ["b"], then_branch=inner, else_branch=other))
    go = onnx.numpy_helper.from_array(np.array(True), "go")
    return graph_of(list(inner.node), [info("x", ["N", 3])], [info("b", ["N", 3])], [go])


def test_graphs_nested_beyond_the_limit_are_refused() -> None:
    assert examine(nested(10)).independent
    assert "nested more than 20 deep" in examine(nested(25)).why
