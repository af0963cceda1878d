"""When requests may be joined into one run, and what is said of it."""

from __future__ import annotations

import pytest

from agent.core.joining import Joining, joining, outcome
from registry.contracts.catalogue.batching import Basis, Batching, BatchingMode
from registry.contracts.enums import OLDER_READER

PROVEN = Batching(independent=True)
DECLARED = Batching(independent=True, basis=Basis.PUBLISHER, max_size=8)


def allowed(manifest: Batching | None, mode: BatchingMode = BatchingMode.AUTO, *, off_here: bool = False) -> Joining:
    return joining(manifest, limit=32, mode=mode, off_here=off_here)


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        (None, "the manifest does not say that requests may be joined"),
        (Batching(why="node 'sum' (CumSum): it adds up along the items"), "node 'sum' (CumSum): it adds up"),
        (Batching(basis=Basis.PUBLISHER), "declared by the publisher"),
        (Batching(independent=True, axis=1), "in a way that this program does not know"),
    ],
)
def test_what_the_manifest_does_not_permit_runs_one_at_a_time(manifest: Batching | None, why: str) -> None:
    found = allowed(manifest)
    assert found.cap == 1
    assert why in found.why
    assert outcome(found, 1, "") == found.why


def test_what_the_manifest_permits_is_bounded_by_the_host_and_by_the_publishers_largest_size() -> None:
    assert allowed(PROVEN) == (32, "requests may be joined: proven from the graph that items are independent")
    assert allowed(DECLARED).cap == 8
    assert joining(DECLARED, limit=4, mode=BatchingMode.AUTO, off_here=False).cap == 4
    assert joining(PROVEN, limit=1, mode=BatchingMode.AUTO, off_here=False).cap == 1


def test_a_deployment_and_a_host_can_only_take_away() -> None:
    assert "the deployment says so" in allowed(PROVEN, BatchingMode.OFF).why
    assert "this host's settings say so" in allowed(PROVEN, off_here=True).why
    assert allowed(PROVEN, BatchingMode.OFF).cap == allowed(PROVEN, off_here=True).cap == 1
    assert allowed(None, BatchingMode.AUTO).cap == 1


def test_what_measuring_found_is_said_with_the_reason_for_it() -> None:
    permitted = allowed(PROVEN)
    assert outcome(permitted, 16, "").startswith("up to 16 together: requests may be joined")
    assert outcome(permitted, 1, "").startswith("one request at a time: larger batches are no faster here")
    assert outcome(permitted, 1, "a trial run differs").startswith("one request at a time: a trial run differs (")


def test_a_basis_that_an_older_agent_does_not_know_permits_nothing() -> None:
    said = {"independent": True, "basis": "oracle"}
    read = Batching.model_validate(said, context=dict(OLDER_READER))
    assert not read.allows
    assert read.to_json() == said


def test_a_largest_size_without_independence_is_refused() -> None:
    with pytest.raises(ValueError, match="a largest size is for items that are independent"):
        Batching(max_size=4)
