"""When tries end, retention and what a slot says of itself."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.backoff import DEPLOYMENT, exhausted
from agent.core.fitness import CachedArtifact, to_evict
from agent.core.lifecycle import State
from agent.core.slots import Choice, Live, SlotRecord, WorkerReport, report
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.messages import Fault, Profile, ServingState
from tests.fakes.registry_simulator import one_file_manifest

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def test_an_outage_is_waited_out_for_ever_and_a_crash_is_not() -> None:
    assert not exhausted(DEPLOYMENT, 10_000, DeploymentCode.REGISTRY_UNREACHABLE)
    assert exhausted(DEPLOYMENT, DEPLOYMENT.limit, DeploymentCode.WORKER_CRASHED)


artifacts = st.lists(
    st.builds(CachedArtifact, digest=st.text("abc", min_size=1), size=st.integers(0, 100), used_at=st.floats(0, 9)),
    unique_by=lambda artifact: artifact.digest,
)


@given(artifacts, st.sets(st.text("abc", min_size=1)), st.integers(0, 300), st.integers(0, 100))
def test_what_is_kept_is_never_evicted_and_no_more_goes_than_must(
    cached: list[CachedArtifact], keep: set[str], limit: int, need: int
) -> None:
    gone = to_evict(cached, keep, limit, need)
    sizes = {artifact.digest: artifact.size for artifact in cached}
    left = sum(sizes.values()) - sum(sizes[digest] for digest in gone)
    assert not keep & set(gone)
    assert left + need <= limit or set(gone) == set(sizes) - keep
    if gone:
        assert left + sizes[gone[-1]] + need > limit


def test_the_longest_unused_goes_first() -> None:
    cached = [CachedArtifact("new", 10, 3.0), CachedArtifact("old", 10, 1.0), CachedArtifact("mid", 10, 2.0)]
    assert to_evict(cached, set(), 15) == ["old", "mid"]


VARIANT = one_file_manifest(b"x").variants[0]
ACTIVE = Choice(
    model="lenet",
    version="1.0.0",
    manifest=one_file_manifest(b"x").canonical_digest(),
    variant=VARIANT,
    variant_digest=VARIANT.canonical_digest(),
    backend="fake",
    profile=Profile.THROUGHPUT,
)
SERVING = WorkerReport(choice=ACTIVE, backend="fake/cpu", execution="process", max_batch=4, since=NOW)
CRASH = Fault(code="worker_crashed", attempts=1)


def slot(**fields: object) -> SlotRecord:
    return SlotRecord.model_validate({"model": "lenet", "active": ACTIVE, **fields})


@pytest.mark.parametrize(
    ("record", "live", "state"),
    [
        (slot(state=State.COMMITTED), Live(SERVING), ServingState.SERVING),
        (slot(state=State.PROBATION), Live(SERVING), ServingState.SERVING),
        (slot(active=None, state=State.DOWNLOADING), Live(), ServingState.PENDING),
        (slot(state=State.DOWNLOADING), Live(SERVING), ServingState.CHANGING),
        (slot(state=State.WAITING), Live(SERVING), ServingState.CHANGING),
        (slot(state=State.ROLLING_BACK), Live(SERVING), ServingState.CHANGING),
        (slot(state=State.WARMING), Live(cleared=True), ServingState.PENDING),
        (slot(state=State.FAILED), Live(SERVING), ServingState.FAILED),
        (slot(state=State.ROLLED_BACK), Live(SERVING), ServingState.FAILED),
        (slot(state=State.COMMITTED), Live(crash=CRASH), ServingState.RECOVERING),
        (slot(state=State.COMMITTED), Live(crash=CRASH, given_up=True), ServingState.FAILED),
    ],
)
def test_a_slot_says_what_really_serves(record: SlotRecord, live: Live, state: ServingState) -> None:
    said = report(record, live)
    assert said.state is state
    assert said.version == ("1.0.0" if live.serving else None)


def test_a_slot_record_survives_the_journal() -> None:
    assert SlotRecord.model_validate_json(slot().canonical()) == slot()
