"""One device in a rollout: what its reports make of its action."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from registry.contracts.device.deployments import DeploymentPolicy, DeploymentProgress, Phase
from registry.contracts.rollout.spec import Timeouts
from registry.contracts.rollout.states import ActionState
from registry.core.rollouts.actions import (
    BY_REGISTRY,
    FINAL,
    IN_FLIGHT,
    OF_PHASE,
    PARKED,
    SUCCESS,
    Action,
    Report,
    due,
    set_by_registry,
    take,
)

S = ActionState
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
NEW, OLD = "sha256:" + "1" * 64, "sha256:" + "0" * 64


def action(state: ActionState = S.OFFERED, **more: object) -> Action:
    return replace(Action("r1", 0, NEW, state, NOW), **more)  # type: ignore[arg-type]


def says(phase: Phase, at: float = 0, serving: str | None = None, **more: object) -> Report:
    fields: dict[str, object] = {"rollout": "r1", "attempt": 0, "manifest": NEW, **more}
    when = NOW + timedelta(seconds=at)
    progress = DeploymentProgress.model_validate({"version": "2", "phase": phase, "since": when, **fields})
    return Report(progress, serving, steady=serving is not None, at=when)


def serves(digest: str | None, at: float = 0) -> Report:
    return Report(None, digest, steady=True, at=NOW + timedelta(seconds=at))


def after(start: Action, *reports: Report) -> Action:
    for report in reports:
        start = take(start, report, NOW) or start
    return start


def test_every_phase_of_a_device_has_a_state_here() -> None:
    assert set(OF_PHASE) == set(Phase)


def test_every_state_is_waiting_for_the_registry_for_the_device_or_final() -> None:
    assert set(S) == IN_FLIGHT | PARKED | FINAL
    assert not (IN_FLIGHT & FINAL)
    assert not (PARKED & FINAL)


@pytest.mark.parametrize("state", sorted(IN_FLIGHT))
def test_every_state_that_waits_for_a_device_has_a_deadline(state: ActionState) -> None:
    end = due(state, NOW, Timeouts(), DeploymentPolicy())
    assert end is not None
    assert end > NOW


def test_a_commit_counts_only_when_the_device_was_seen_serving_the_digest() -> None:
    claimed = after(action(), says(Phase.COMMITTED))
    assert claimed.state is S.CONFIRMING
    assert after(claimed, serves(OLD)).state is S.CONFIRMING
    assert after(claimed, serves(NEW)).state is S.COMMITTED
    assert after(action(), says(Phase.COMMITTED, serving=NEW)).state is S.COMMITTED


@pytest.mark.parametrize("phase", [Phase.SWITCHING, Phase.PROBATION])
def test_serving_before_the_commit_is_no_success(phase: Phase) -> None:
    assert after(action(), says(phase, serving=NEW)).state is OF_PHASE[phase]


def test_a_repeat_changes_nothing() -> None:
    once = after(action(), says(Phase.DOWNLOADING, 5))
    assert take(once, says(Phase.DOWNLOADING, 5), NOW + timedelta(hours=1)) is None


def test_a_report_from_before_what_is_known_is_dropped() -> None:
    warming = after(action(), says(Phase.WARMING, 9))
    assert take(warming, says(Phase.DOWNLOADING, 5), NOW) is None


def test_a_device_whose_clock_was_set_back_still_gets_on() -> None:
    warming = after(action(), says(Phase.WARMING, 9))
    assert after(warming, says(Phase.COMMITTED, -9999)).state is S.CONFIRMING


@pytest.mark.parametrize("claimed_by", ["reported state", "event"])
def test_a_commit_is_seen_though_the_clock_was_set_back_since(claimed_by: str) -> None:
    claim = says(Phase.COMMITTED, 9999 if claimed_by == "event" else 9998)
    claimed = after(action(), claim)
    told = replace(says(Phase.COMMITTED, 9998), serving=NEW, steady=True, at=NOW)
    assert after(claimed, told).state is S.COMMITTED
    assert after(claimed, replace(told, progress=None)).state is S.CONFIRMING


@pytest.mark.parametrize("other", [{"rollout": "r2"}, {"attempt": 1}, {"manifest": OLD}])
def test_a_report_of_another_deployment_changes_nothing(other: dict[str, object]) -> None:
    assert take(action(), says(Phase.FAILED, **other), NOW) is None


@pytest.mark.parametrize("state", sorted(FINAL - {S.TIMED_OUT, S.COMMITTED, S.COMMITTED_LATE, S.REGRESSED}))
def test_a_final_state_absorbs_every_report(state: ActionState) -> None:
    for phase in Phase:
        for serving in (None, OLD, NEW):
            assert take(action(state), says(phase, 9, serving), NOW) is None, (phase, serving)


def test_a_commit_after_the_time_out_is_kept_apart_and_also_needs_to_serve() -> None:
    silent = set_by_registry(after(action(), says(Phase.PROBATION)), S.TIMED_OUT, NOW)
    assert silent is not None
    assert silent.failed_in is Phase.PROBATION
    assert after(silent, serves(NEW, 9)).state is S.TIMED_OUT
    assert after(silent, says(Phase.COMMITTED, 9)).state is S.TIMED_OUT
    assert after(silent, says(Phase.COMMITTED, 9), serves(NEW, 10)).state is S.COMMITTED_LATE


def test_a_claim_that_timed_out_unconfirmed_is_believed_when_it_is_seen() -> None:
    silent = set_by_registry(after(action(), says(Phase.COMMITTED)), S.TIMED_OUT, NOW)
    assert silent is not None
    assert after(silent, serves(NEW, 5)).state is S.COMMITTED_LATE


def test_a_failure_after_the_time_out_is_known_as_one() -> None:
    silent = set_by_registry(action(), S.TIMED_OUT, NOW)
    assert silent is not None
    assert after(silent, says(Phase.ROLLED_BACK, 9)).state is S.ROLLED_BACK


@pytest.mark.parametrize("state", sorted(SUCCESS))
def test_another_digest_after_the_commit_is_a_regression_until_it_serves_again(state: ActionState) -> None:
    gone = after(action(state), serves(OLD))
    assert gone.state is S.REGRESSED
    assert after(gone, serves(NEW)).state is S.COMMITTED
    assert after(action(state), serves(None)).state is S.REGRESSED


def test_no_regression_is_a_newer_wish_a_restart_or_a_report_from_before_the_commit() -> None:
    done = action(S.COMMITTED, phase_since=NOW)
    assert take(done, replace(serves(OLD), wanted=False), NOW) is None
    assert take(done, replace(serves(None), steady=False), NOW) is None
    assert take(done, serves(OLD, -5), NOW) is None


def test_a_refusal_of_the_device_is_not_a_failure_of_the_version() -> None:
    assert after(action(), says(Phase.FAILED, code="quarantined")).state is S.REJECTED


def test_a_device_that_serves_it_from_an_earlier_deployment_is_already_current() -> None:
    assert after(action(), serves(NEW)).state is S.ALREADY_CURRENT


def test_a_rollback_to_nothing_is_done_when_the_model_is_gone() -> None:
    assert after(action(target=None), serves(None)).state is S.COMMITTED


def test_what_the_registry_decides_comes_too_late_for_a_device_that_is_at_its_end() -> None:
    for state in FINAL:
        for wanted in set(BY_REGISTRY) - {S.PLANNED}:
            assert set_by_registry(action(state), wanted, NOW) is None, (state, wanted)


@pytest.mark.parametrize("state", [S.SWITCHING, S.PROBATION, S.ROLLING_BACK, S.CONFIRMING])
def test_what_switches_or_has_switched_is_not_cancelled(state: ActionState) -> None:
    assert set_by_registry(action(state), S.CANCELLED, NOW) is None


def test_a_retry_plans_who_failed_or_was_left_out_and_never_who_has_it_or_is_at_it() -> None:
    again = {state for state in S if set_by_registry(action(state), S.PLANNED, NOW) is not None}
    assert again >= {S.FAILED, S.ROLLED_BACK, S.ROLLBACK_FAILED, S.REJECTED, S.TIMED_OUT, S.CANCELLED, S.EXCLUDED}
    assert not again & (SUCCESS | IN_FLIGHT | {S.PLANNED, S.ALREADY_CURRENT})


def test_a_reason_that_comes_up_within_a_phase_is_heard_though_the_phase_began_before_its_event_was_written() -> None:
    begun = after(action(), Report(says(Phase.PROBATION, 1).progress, at=None), says(Phase.PROBATION, 0.9))
    assert begun.phase_since == NOW + timedelta(seconds=1)
    held = replace(says(Phase.PROBATION, 0.9, code="held"), at=NOW + timedelta(seconds=9))
    assert after(begun, held).code == "held"
    assert after(begun, replace(held, at=NOW)).code == ""


@pytest.mark.parametrize("state", [S.STAGED, S.PROBATION])
def test_who_was_told_to_hold_and_came_to_rest_has_no_deadline(state: ActionState) -> None:
    assert due(state, NOW, Timeouts(), DeploymentPolicy(), held=True) is None
    assert due(S.DOWNLOADING, NOW, Timeouts(), DeploymentPolicy(), held=True) is not None
