"""What the walk over an ONNX model finds, and where it stops."""

from __future__ import annotations

import pytest
from onnx import ModelProto, TensorProto, helper

from registry.inspection.facts import InspectionError
from registry.inspection.onnx import MAX_DEPTH, custom_functions, survey

FLOAT = TensorProto.FLOAT


def outside(name: str, **entries: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def model_of(
    *nodes: object, initializers: tuple[TensorProto, ...] = (), functions: tuple[object, ...] = ()
) -> ModelProto:
    graph = helper.make_graph(list(nodes), "g", [], [], list(initializers))  # type: ignore[arg-type]
    return helper.make_model(graph, functions=list(functions))  # type: ignore[arg-type]


def test_weights_attributes_and_subgraphs_outside_the_file_are_all_found() -> None:
    branch = helper.make_graph([], "branch", [], [], [outside("deep", location="c.bin")])
    constant = helper.make_node("Constant", [], ["k"], value=outside("attribute", location="b.bin", offset="4"))
    model = model_of(
        constant,
        helper.make_node("If", ["k"], ["y"], then_branch=branch, else_branch=branch),
        initializers=(outside("weight", location="a.bin", length="8"),),
    )
    found = {(t.location, t.offset, t.length) for t in survey(model).external}
    assert found == {("a.bin", 0, 8), ("b.bin", 4, None), ("c.bin", 0, None)}


def test_the_default_domain_has_one_name() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")
    assert survey(model_of(node)).operators == {("", "Relu")}


def test_functions_of_the_model_are_told_apart_from_operators_that_a_runtime_brings() -> None:
    function = helper.make_function(
        "mine", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 17)]
    )
    model = model_of(helper.make_node("Twice", ["x"], ["y"], domain="mine"), functions=(function,))
    assert survey(model).operators == {("mine", "Twice"), ("", "Add")}
    assert custom_functions(model) == {("mine", "Twice")}


def test_a_weight_that_does_not_say_where_it_lies_is_refused() -> None:
    with pytest.raises(InspectionError, match="does not say where"):
        survey(model_of(initializers=(outside("w"),)))


@pytest.mark.parametrize("offset", ["-1", "1e9", "٣", "9" * 30, ""])
def test_an_offset_that_is_no_number_is_refused(offset: str) -> None:
    with pytest.raises(InspectionError, match="not a number"):
        survey(model_of(initializers=(outside("w", location="a", offset=offset),)))


def test_graphs_nested_beyond_the_limit_are_refused() -> None:
    graph = helper.make_graph([], "innermost", [], [])
    for _ in range(MAX_DEPTH + 1):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=graph)], "g", [], [])
    with pytest.raises(InspectionError, match="deep"):
        survey(helper.make_model(graph))
