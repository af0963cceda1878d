"""What the options of `registry publish` say in the words of a publish file."""

from __future__ import annotations

import pytest

from registry.cli.catalogue.publish import (
    architecture,
    batching_section,
    tensor_specs,
    tolerance_of,
)
from registry.client.errors import UsageFault
from registry.contracts.catalogue.manifest import Network, TensorSpec, Tolerance
from registry.contracts.tensors import Datatype
from registry.publishing.request import BatchingSection


def test_batching_is_left_to_the_graph_declared_or_forbidden() -> None:
    assert batching_section(None, None) == batching_section("auto", None) == BatchingSection()
    assert batching_section("independent", 8) == BatchingSection(independent=True, max_size=8)
    assert batching_section("off", None) == BatchingSection(independent=False)


def test_a_network_has_arguments_of_the_types_that_their_texts_show() -> None:
    said = architecture("lenet5", None, ["num_class=10", "ratio=0.5", "deep=true", "kind=plain"])
    arguments = {"num_class": 10, "ratio": 0.5, "deep": True, "kind": "plain"}
    assert said == {"network": Network(name="lenet5", arguments=arguments)}


def test_a_tensor_is_name_type_and_dimensions_and_the_name_may_have_colons() -> None:
    assert tensor_specs(["a:0:FP32:-1,4"]) == (TensorSpec(name="a:0", datatype=Datatype.FP32, shape=(-1, 4)),)
    for bad in ("x", "x:FP32", "x:FP99:1", "x:FP32:1,a", ":FP32:1"):
        with pytest.raises(UsageFault, match="not of the form NAME:TYPE:DIMS"):
            tensor_specs([bad])


def test_a_tolerance_names_what_it_changes() -> None:
    assert tolerance_of("absolute=1e-2, top1=0.9") == Tolerance(absolute=0.01, top1_agreement=0.9)
    with pytest.raises(UsageFault, match="has 'abs=1'"):
        tolerance_of("abs=1")
    with pytest.raises(UsageFault, match="out of range"):
        tolerance_of("top1=2")
