"""The number of items, integers and names in forms that are easily misread. Each was once proven and wrong together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from registry.inspection.independence.walk import examine
from tests.support.models import independence
from tests.support.models.graphs import Graph, one

f32, i32, i64 = np.float32, np.int32, np.int64
Make = Callable[[], onnx.ModelProto]


def count_of(graph: Graph, x: str) -> str:
    return graph("Gather", graph("Shape", x), np.array([0], i64))


def added(graph: Graph, x: str, number: str) -> onnx.ModelProto:
    """x and a number, which is another one together than alone."""
    return graph.model(graph("Add", x, graph("Cast", number, to=TensorProto.FLOAT)))


def reduced_over_nothing() -> onnx.ModelProto:
    graph = Graph()
    x = "@" + graph.operand("N,3")
    return added(graph, x, graph("ReduceSum", count_of(graph, x), noop_with_empty_axes=1))


def among_many_elements() -> onnx.ModelProto:
    graph = Graph()
    x = "@" + graph.operand("N,3")
    row = graph("Concat", count_of(graph, x), np.zeros(4096, i64), axis=0)
    return added(graph, x, graph("ReduceSum", row, np.array([0], i64)))


def among_many_elements_by_steps() -> onnx.ModelProto:
    graph = Graph()
    x = "@" + graph.operand("N,3")
    row = graph("Concat", count_of(graph, x), np.zeros(3000, i64), axis=0)
    row = graph("Concat", row, row, axis=0)
    return added(graph, x, graph("ReduceSum", row, np.array([0], i64)))


def branch(graph: Graph, x: str, condition: str) -> onnx.ModelProto:
    """A softmax over the items where the condition holds, within each item where it does not."""
    parts = []
    for name, axis in (("then", 0), ("else", 1)):
        node = helper.make_node("Softmax", [x[1:]], [name], axis=axis)
        parts.append(helper.make_graph([node], name, [], [onnx.ValueInfoProto(name=name)]))
    return graph.model(graph("If", condition, then_branch=parts[0], else_branch=parts[1]))


def on(condition: Callable[[Graph], str]) -> Make:
    def make() -> onnx.ModelProto:
        graph = Graph()
        x = "@" + graph.operand("N,3")
        return branch(graph, x, condition(graph))

    return make


def cut_to_32_bits(graph: Graph) -> str:
    """2**32 as an INT32 is 0."""
    return graph("Less", graph("Cast", np.array(2**32, i64), to=TensorProto.INT32), np.array(1, i32))


def without_a_sign(graph: Graph) -> str:
    """-1 as an UINT64 is large, and half of it is positive."""
    half = graph("Div", graph("Cast", np.array(-1, i64), to=TensorProto.UINT64), np.array(2, np.uint64))
    return graph("Less", np.array(0, i64), graph("Cast", half, to=TensorProto.INT64))


def sum_beyond_32_bits(graph: Graph) -> str:
    return graph("Less", graph("Add", np.array(2**31 - 1, i32), np.array(1, i32)), np.array(0, i32))


def product_beyond_64_bits(graph: Graph) -> str:
    return graph("Equal", graph("Mul", np.array(2**62, i64), np.array(4, i64)), np.array(0, i64))


def sizes_that_are_zero() -> onnx.ModelProto:
    """-a == b where both are 0."""
    graph = Graph()
    x = "@" + graph.operand("N,3")
    sizes = [graph("Gather", graph("Shape", "@" + graph.operand(f"N,{name}")), np.array(1, i64)) for name in "ab"]
    return branch(graph, x, graph("Equal", graph("Mul", sizes[0], np.array(-1, i64)), sizes[1]))


def noise_of_a_constant() -> onnx.ModelProto:
    graph = Graph()
    x = "@" + graph.operand("N,3")
    noise = graph("Dropout", np.ones((1, 3), f32), np.array(0.5, f32), np.array(True))
    return graph.model(graph("Add", x, graph("Reshape", noise, np.array([1, 3], i64))))


def two_constants_of_one_name() -> onnx.ModelProto:
    """ONNX Runtime takes the last."""
    graph = Graph()
    x = "@" + graph.operand("N,3")
    graph.constants += [numpy_helper.from_array(np.array([axis], i64), "axis") for axis in (1, 0)]
    return graph.model(graph("Sub", x, graph("ReduceSum", x, "@axis")))


def two_opsets() -> onnx.ModelProto:
    """Softmax over all axes from `axis` on, or along one."""
    model = one("Softmax", "N,3,4", axis=1, opset=11)
    model.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    return model


def function_called_like_an_operator() -> onnx.ModelProto:
    """Of another opset than the model's, so that the inliner leaves it."""
    node = helper.make_node("Softmax", ["a"], ["b"], axis=0)
    function = helper.make_function("", "Relu", ["a"], ["b"], [node], [helper.make_opsetid("", 16)])
    model = one("Relu", "N,3", opset=17)
    model.functions.append(function)
    return model


def inner_name_of_an_outer_tensor() -> onnx.ModelProto:
    """Which of the two is meant before the inner one is made?"""
    graph = Graph()
    x = "@" + graph.operand("N,3")
    graph.constants.append(numpy_helper.from_array(np.zeros((1, 3), f32), "shadow"))
    nodes = [
        helper.make_node("Add", [x[1:], "shadow"], ["made"]),
        helper.make_node("ReduceSum", [x[1:], graph.operand(np.array([0], i64))], ["shadow"]),
    ]
    body = helper.make_graph(nodes, "b", [], [onnx.ValueInfoProto(name="made")])
    return graph.model(graph("If", np.array(True), then_branch=body, else_branch=body))


def half_a_place_along_every_axis() -> onnx.ModelProto:
    """By its definition this mode takes item i + 1 where it is asked for item i."""
    scales: Any = np.array([1, 2], f32)
    mode = "tf_half_pixel_for_nn"
    return one("Resize", "N,3", None, scales, coordinate_transformation_mode=mode, nearest_mode="ceil", opset=11)


def neighbours_that_count_nothing(op: str, mode: str, rank: int) -> Make:
    """An infinity in one item, times 0, is a NaN in the next."""
    operands = [None] if op == "Resize" else []
    dims = "N" + ",4" * (rank - 1)
    opset = 13 if op == "Resize" else 9
    return lambda: one(op, dims, *operands, np.array([1] * (rank - 1) + [2], f32), mode=mode, opset=opset)


KERNELS: dict[str, Make] = {
    "a maximum over a middle axis": lambda: one("ReduceMax", "N,5,7", np.array([1], i64)),
    "a minimum over a middle axis": lambda: one("ReduceMin", "N,5,7", np.array([1], i64)),
    "a maximum over the last axis": lambda: one("ReduceMax", "float16 N,5", np.array([1], i64)),
    "the place of a maximum": lambda: one("Hardmax", "N,5,7", axis=1),
    "a logarithm of scores along a middle axis": lambda: one("LogSoftmax", "double N,5,7", axis=1),
    "negative numbers without a sign": lambda: one("Cast", "N,7", to=TensorProto.UINT32),
    "negative numbers like another tensor": lambda: one("CastLike", "N,7", np.array(0, np.uint32)),
    "two axes, linear": neighbours_that_count_nothing("Resize", "linear", 2),
    "two axes, cubic": neighbours_that_count_nothing("Resize", "cubic", 2),
    "three axes, linear": neighbours_that_count_nothing("Resize", "linear", 3),
    "two axes by Upsample": neighbours_that_count_nothing("Upsample", "linear", 2),
    "three axes by Upsample": neighbours_that_count_nothing("Upsample", "linear", 3),
}
"""Independent by their definitions for ordinary numbers. ONNX Runtime 1.32 answers otherwise alone than together where
there are NaN or infinities, or numbers that the type does not hold."""


@pytest.mark.parametrize("name", KERNELS)
def test_what_a_runtime_mixes_beside_nan_and_infinity_is_refused(name: str) -> None:
    assert not examine(KERNELS[name]()).independent


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_an_infinity_in_a_picture_does_not_reach_the_next(mode: str) -> None:
    model = neighbours_that_count_nothing("Resize", mode, 4)()
    assert examine(model).independent
    runs = independence.session(model)
    items = [np.full((1, 4, 4, 4), value, f32) for value in (1, np.inf, 2, np.nan, -np.inf)]
    (given,) = runs.get_inputs()
    assert independence.disagreement(runs, [{given.name: item} for item in items]) == ""


REFUSED: dict[str, tuple[Make, str]] = {
    "the count through a reduction over no axis": (reduced_over_nothing, "the number of items is used as data"),
    "the count among more elements than are followed": (among_many_elements, "more than 4096 elements"),
    "the count among many elements, by steps": (among_many_elements_by_steps, "more than 4096 elements"),
    "a condition on a number cut to 32 bits": (on(cut_to_32_bits), "along the axis of the items"),
    "a condition on a number without its sign": (on(without_a_sign), "along the axis of the items"),
    "a condition on a sum that overflows": (on(sum_beyond_32_bits), "along the axis of the items"),
    "a condition on a product that overflows": (on(product_beyond_64_bits), "along the axis of the items"),
    "a condition on sizes that may both be 0": (sizes_that_are_zero, "along the axis of the items"),
    "random numbers that no item goes into": (noise_of_a_constant, "may be in training mode"),
    "two constants of one name": (two_constants_of_one_name, "'axis' stands for two tensors"),
    "two opsets of one domain": (two_opsets, "two opsets of a domain"),
    "a function with an operator's name": (function_called_like_an_operator, "the name of an operator"),
    "a tensor of a branch with an outer name": (inner_name_of_an_outer_tensor, "'shadow' stands for two tensors"),
    "places moved along the items": (half_a_place_along_every_axis, "moves places by half a place"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name: str) -> None:
    make, why = REFUSED[name]
    found = examine(make())
    assert not found.independent
    assert why in found.why


def test_a_condition_within_32_bits_is_still_decided_when_the_model_is_published() -> None:
    less: Make = on(
        lambda graph: graph("Less", graph("Cast", np.array(7, i64), to=TensorProto.INT32), np.array(1, i32))
    )
    assert examine(less()).independent
