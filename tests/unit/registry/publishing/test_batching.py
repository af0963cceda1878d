"""What a publisher says of joining requests, over what the graph says."""

from __future__ import annotations

import pytest

from registry.client.errors import UsageFault
from registry.contracts.catalogue.batching import Basis, Batching, batching_text
from registry.contracts.catalogue.manifest import Format
from registry.inspection.facts import ModelFacts
from registry.publishing.request import BatchingSection
from registry.publishing.variant_facts import decided

PROVEN = Batching(independent=True, why="the items stay apart in all 3 nodes")
REFUSED = Batching(why="node 'm' (ReduceMean): it reduces over the axis of the items")
INDEPENDENT = BatchingSection(independent=True, max_size=8)


def facts(batching: Batching | None) -> ModelFacts:
    return ModelFacts(format=Format.ONNX if batching else Format.OM, batching=batching)


@pytest.mark.parametrize("found", [PROVEN, REFUSED, None])
def test_without_a_word_the_graph_decides_and_what_it_does_not_say_permits_nothing(found: Batching | None) -> None:
    assert decided(BatchingSection(), facts(found)) == (found, "")


def test_the_publisher_may_declare_what_the_graph_does_not_prove_and_is_told_so() -> None:
    stated, warning = decided(INDEPENDENT, facts(REFUSED))
    assert stated == Batching(independent=True, basis=Basis.PUBLISHER, max_size=8)
    assert "the graph does not prove it: node 'm' (ReduceMean)" in warning
    assert decided(INDEPENDENT, facts(None)) == (stated, "")
    assert "declared by the publisher that items are independent" in batching_text(stated)
    assert "at most 8" in batching_text(stated)


def test_the_publisher_may_forbid_what_the_graph_proves() -> None:
    stated, warning = decided(BatchingSection(independent=False), facts(PROVEN))
    assert stated is not None
    assert not stated.allows
    assert (stated.basis, warning) == (Basis.PUBLISHER, "")


def test_a_largest_size_bounds_a_proof_and_makes_none() -> None:
    bound = BatchingSection(max_size=4)
    assert decided(bound, facts(PROVEN))[0] == PROVEN.model_copy(update={"max_size": 4})
    assert decided(bound, facts(REFUSED))[0] == REFUSED
    assert decided(bound, facts(None))[0] is None


def test_items_along_another_axis_are_kept_and_not_joined() -> None:
    stated, warning = decided(BatchingSection(independent=True, axis=1), facts(None))
    assert stated is not None
    assert not stated.allows
    assert "joined along axis 0 only" in warning


@pytest.mark.parametrize("section", [BatchingSection(axis=1), BatchingSection(independent=False, max_size=2)])
def test_what_contradicts_itself_is_refused(section: BatchingSection) -> None:
    with pytest.raises(UsageFault):
        decided(section, facts(PROVEN))
