"""Backoff, retention and what a slot says of itself."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.backoff import DEPLOYMENT, Backoff
from agent.core.lifecycle import State
from agent.core.retention import CachedArtifact, to_evict
from agent.core.slots import Choice, Serving, SlotRecord, report
from registry.contracts.codes import DeploymentCode
from registry.contracts.messages import Fault, Profile, ServingState
from tests.fakes.registry_simulator import one_file_manifest

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_a_delay_is_never_over_the_cap_nor_under_half_of_the_first(attempt: int, chance: float) -> None:
    assert 0.5 <= Backoff(1.0, 300.0, 8).delay(attempt, chance) <= 300.0


def test_delays_grow_until_the_cap() -> None:
    delays = [DEPLOYMENT.delay(attempt, 1.0) for attempt in range(1, 12)]
    assert delays == sorted(delays)
    assert delays[-1] == DEPLOYMENT.cap_s


def test_an_outage_is_waited_out_for_ever_and_a_crash_is_not() -> None:
    assert not DEPLOYMENT.exhausted(10_000, DeploymentCode.REGISTRY_UNREACHABLE)
    assert DEPLOYMENT.exhausted(DEPLOYMENT.limit, DeploymentCode.WORKER_CRASHED)


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


def slot(**fields: object) -> SlotRecord:
    variant = one_file_manifest(b"x").variants[0]
    active = Choice(
        model="lenet",
        version="1.0.0",
        manifest=one_file_manifest(b"x").canonical_digest(),
        variant=variant,
        variant_digest=variant.canonical_digest(),
        backend="fake",
        profile=Profile.THROUGHPUT,
    )
    return SlotRecord.model_validate({"model": "lenet", "active": active, **fields})


SERVING = Serving(backend="fake/cpu", execution="process", max_batch=4, since=NOW)
CRASH = Fault(code="worker_crashed", attempts=1)


@pytest.mark.parametrize(
    ("record", "serving", "crash", "given_up", "state"),
    [
        (slot(), SERVING, None, False, ServingState.SERVING),
        (slot(active=None, state=State.DOWNLOADING), None, None, False, ServingState.PENDING),
        (slot(state=State.DOWNLOADING), SERVING, None, False, ServingState.CHANGING),
        (slot(state=State.WAITING), SERVING, None, False, ServingState.CHANGING),
        (slot(state=State.FAILED), SERVING, None, False, ServingState.FAILED),
        (slot(), None, CRASH, False, ServingState.RECOVERING),
        (slot(), None, CRASH, True, ServingState.FAILED),
    ],
)
def test_a_slot_says_what_really_serves(
    record: SlotRecord, serving: Serving | None, crash: Fault | None, given_up: bool, state: ServingState
) -> None:
    said = report(record, serving, crash, given_up=given_up)
    assert said.state is state
    assert said.version == ("1.0.0" if serving else None)


def test_a_slot_record_survives_the_journal() -> None:
    assert SlotRecord.model_validate_json(slot().canonical()) == slot()
