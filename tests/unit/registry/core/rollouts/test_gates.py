"""The gate of a wave: which counts pass, stop, or say nothing."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from registry.contracts.codes import ReasonCode
from registry.contracts.rollout.spec import AccuracyRule, Gate, HealthMetric, HealthRule, ShadowRule
from registry.contracts.rollout.states import ActionState, WaveState
from registry.core.rollouts.gates import Accepted, Cohort, Cohorts, GateDecision, GateOutcome, WaveFacts, judge

S = ActionState
T0 = datetime(2026, 1, 1, tzinfo=timezone.utc)
LATER = T0 + timedelta(hours=2)
GOOD = {S.COMMITTED: 100}


def judged(
    counts: dict[ActionState, int],
    gate: Gate | None = None,
    cohorts: Cohorts | None = None,
    now: datetime = LATER,
    **more: object,
) -> GateDecision:
    spoke = sum(n for s, n in counts.items() if s not in (S.PLANNED, S.EXCLUDED, S.OFFERED, S.TIMED_OUT))
    facts: dict[str, object] = {"spoke": spoke, "started_at": T0, "soak_since": T0, "soak_s": 60.0, **more}
    wave = WaveFacts(0, state=WaveState.SOAKING, counts=counts, min_committed=1, **facts)  # type: ignore[arg-type]
    return judge(wave, gate or Gate(), cohorts or Cohorts(), now)


@pytest.mark.parametrize(
    ("counts", "outcome", "code"),
    [
        (GOOD, GateOutcome.PASSED, ReasonCode.DONE),
        ({S.COMMITTED: 90, S.DOWNLOADING: 10}, GateOutcome.PASSED, ReasonCode.DONE),
        ({S.COMMITTED: 89, S.DOWNLOADING: 11}, GateOutcome.WAITING, ReasonCode.RELEASING),
        ({S.CONFIRMING: 100}, GateOutcome.WAITING, ReasonCode.RELEASING),
        ({S.COMMITTED: 95, S.FAILED: 5}, GateOutcome.PASSED, ReasonCode.DONE),
        ({S.COMMITTED: 94, S.FAILED: 6}, GateOutcome.FAILED, ReasonCode.FAILED_BUDGET),
        ({S.COMMITTED: 94, S.REGRESSED: 6}, GateOutcome.FAILED, ReasonCode.FAILED_BUDGET),
        ({S.COMMITTED: 94, S.TIMED_OUT: 6}, GateOutcome.FAILED, ReasonCode.UNKNOWN_BUDGET),
        ({S.FAILED: 9, S.PLANNED: 91}, GateOutcome.WAITING, ReasonCode.RELEASING),
        ({S.FAILED: 10, S.PLANNED: 90}, GateOutcome.FAILED, ReasonCode.FAILED_BUDGET),
        ({S.FAILED: 1}, GateOutcome.FAILED, ReasonCode.FAILED_BUDGET),
        ({S.COMMITTED: 3, S.EXCLUDED: 97}, GateOutcome.INCONCLUSIVE, ReasonCode.INCONCLUSIVE),
        ({S.COMMITTED: 50, S.EXCLUDED: 50}, GateOutcome.PASSED, ReasonCode.DONE),
        ({S.SUPERSEDED: 4, S.ALREADY_CURRENT: 2}, GateOutcome.PASSED, ReasonCode.DONE),
        ({S.COMMITTED: 2, S.SUPERSEDED: 98}, GateOutcome.PASSED, ReasonCode.DONE),
        ({}, GateOutcome.PASSED, ReasonCode.DONE),
    ],
)
def test_counts_decide_with_their_denominators(
    counts: dict[ActionState, int], outcome: GateOutcome, code: ReasonCode
) -> None:
    verdict = judged(counts)
    assert (verdict.outcome, verdict.code) == (outcome, code)


def test_an_absolute_budget_stops_at_once() -> None:
    assert judged({S.FAILED: 2, S.PLANNED: 500}, Gate(max_failed_abs=1)).outcome is GateOutcome.FAILED


def test_enough_that_can_no_longer_commit_is_a_failure_before_the_deadline() -> None:
    verdict = judged({S.FAILED: 11, S.DOWNLOADING: 89}, Gate(max_failed_pct=None))
    assert (verdict.outcome, verdict.code) == (GateOutcome.FAILED, ReasonCode.TOO_FEW_COMMITTED)


def test_the_soak_begins_when_enough_have_committed_and_is_waited_for() -> None:
    assert judged(GOOD, soak_since=None).soak
    early = judged(GOOD, now=T0 + timedelta(seconds=59))
    assert (early.outcome, early.code, early.until) == (
        GateOutcome.WAITING,
        ReasonCode.SOAKING,
        T0 + timedelta(seconds=60),
    )


def test_a_wave_that_is_not_through_by_its_deadline_is_inconclusive() -> None:
    verdict = judged({S.DOWNLOADING: 5}, now=T0 + timedelta(days=1))
    assert (verdict.outcome, verdict.code) == (GateOutcome.INCONCLUSIVE, ReasonCode.WAVE_DEADLINE)


def test_what_a_person_accepted_counts_no_more() -> None:
    counts = {S.COMMITTED: 94, S.FAILED: 6}
    assert judged(counts, accepted=Accepted(failed=6)).outcome is GateOutcome.PASSED
    again = judged({**counts, S.FAILED: 12}, accepted=Accepted(failed=6))
    assert again.outcome is GateOutcome.FAILED


OLD = Cohort(devices=9, requests=1000, errors=10, nan=0, run_p99_us=1000.0, accuracy=0.98, accuracy_devices=9)


@pytest.mark.parametrize(
    ("new", "outcome"),
    [
        (Cohort(requests=1000, errors=10, nan=0, run_p99_us=1500.0), GateOutcome.PASSED),
        (Cohort(requests=1000, errors=45, nan=0, run_p99_us=1000.0), GateOutcome.INCONCLUSIVE),
        (Cohort(requests=1000, errors=70, nan=0, run_p99_us=1000.0), GateOutcome.FAILED),
        (Cohort(requests=1000, errors=0, nan=1, run_p99_us=1000.0), GateOutcome.FAILED),
        (Cohort(requests=1000, errors=0, nan=0, run_p99_us=2500.0), GateOutcome.INCONCLUSIVE),
        (Cohort(requests=1000, errors=0, nan=0, run_p99_us=3500.0), GateOutcome.FAILED),
        (Cohort(requests=99, errors=99, nan=99, run_p99_us=9e9), GateOutcome.PASSED),
    ],
)
def test_health_is_compared_with_the_devices_that_were_not_updated(new: Cohort, outcome: GateOutcome) -> None:
    assert judged(GOOD, cohorts=Cohorts(new, OLD)).outcome is outcome


def test_a_latency_that_differs_by_less_than_what_a_busy_host_adds_is_the_same() -> None:
    tiny, busy = Cohort(requests=1000, nan=0, run_p99_us=30.0), Cohort(requests=1000, nan=0, run_p99_us=900.0)
    slow = Cohort(requests=1000, nan=0, run_p99_us=1100.0)
    assert judged(GOOD, cohorts=Cohorts(busy, tiny)).outcome is GateOutcome.PASSED
    assert judged(GOOD, cohorts=Cohorts(slow, tiny)).outcome is GateOutcome.FAILED


def test_inconclusive_health_is_said_only_after_the_soak_and_bad_health_at_once() -> None:
    early = T0 + timedelta(seconds=1)
    so_so = Cohorts(Cohort(requests=1000, errors=45, run_p99_us=1.0), OLD)
    bad = Cohorts(Cohort(requests=1000, errors=500, run_p99_us=1.0), OLD)
    assert judged(GOOD, cohorts=so_so, now=early).outcome is GateOutcome.WAITING
    assert judged(GOOD, cohorts=bad, now=early).outcome is GateOutcome.FAILED


def test_where_nobody_is_left_to_compare_with_shares_are_absolute_and_latency_is_noted() -> None:
    verdict = judged(GOOD, cohorts=Cohorts(Cohort(requests=1000, errors=70, run_p99_us=9e9)))
    assert verdict.outcome is GateOutcome.FAILED
    assert any("run_p99_ratio" in note for note in verdict.notes)


def test_a_required_rule_waits_for_data_and_is_inconclusive_at_the_deadline() -> None:
    gate = Gate(health=(HealthRule(metric=HealthMetric.ERROR_SHARE, success=0, failure=1, required=True),))
    assert judged(GOOD, gate).outcome is GateOutcome.WAITING
    assert judged(GOOD, gate, now=T0 + timedelta(days=2)).outcome is GateOutcome.INCONCLUSIVE


def test_a_dry_run_only_notes() -> None:
    gate = Gate(health=(HealthRule(metric=HealthMetric.ERROR_SHARE, success=0, failure=0, dry_run=True),))
    verdict = judged(GOOD, gate, Cohorts(Cohort(requests=1000, errors=900), OLD))
    assert verdict.outcome is GateOutcome.PASSED
    assert verdict.notes[0].startswith("dry run")


@pytest.mark.parametrize(("accuracy", "outcome"), [(0.975, GateOutcome.PASSED), (0.96, GateOutcome.FAILED)])
def test_accuracy_may_drop_only_so_far(accuracy: float, outcome: GateOutcome) -> None:
    new = Cohort(accuracy=accuracy, accuracy_devices=3)
    assert judged(GOOD, Gate(accuracy=AccuracyRule()), Cohorts(new, OLD)).outcome is outcome


@pytest.mark.parametrize(
    ("agreed", "compared", "outcome"),
    [(99, 100, GateOutcome.PASSED), (98, 100, GateOutcome.FAILED), (0, 19, GateOutcome.PASSED)],
)
def test_shadow_agreement_is_a_gate(agreed: int, compared: int, outcome: GateOutcome) -> None:
    cohorts = Cohorts(shadow_compared=compared, shadow_agreed=agreed)
    assert judged(GOOD, Gate(shadow=ShadowRule()), cohorts).outcome is outcome
