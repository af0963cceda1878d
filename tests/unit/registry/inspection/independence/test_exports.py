"""Whole networks as exporters write them are proven, and ONNX Runtime answers them alone as together."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from registry.inspection.independence.walk import examine
from tests.support.models import exports, independence


@pytest.mark.parametrize("name", exports.EXPORTS)
def test_it_is_proven_and_holds(name: str) -> None:
    model = exports.EXPORTS[name]()
    found = examine(model)
    assert found.independent, found.why
    runs = independence.session(model)
    items = independence.random_items(runs, np.random.default_rng(3))
    assert independence.disagreement(runs, items) == ""


def test_an_encoder_of_any_length_is_proven_as_well() -> None:
    model = exports.transformer("length")
    found = examine(model)
    assert found.independent, found.why
    runs = independence.session(model)
    assert independence.disagreement(runs, independence.random_items(runs, np.random.default_rng(4), free=5)) == ""


@pytest.mark.parametrize("name", exports.EXPORTS)
def test_the_same_network_with_one_node_that_mixes_items_is_not(name: str) -> None:
    model = exports.EXPORTS[name]()
    output = model.graph.output[0].name
    model.graph.node.append(onnx.helper.make_node("Softmax", [output], ["mixed"], axis=0))
    model.graph.output[0].name = "mixed"
    found = examine(model)
    assert not found.independent
    assert "node 'mixed' (Softmax)" in found.why
