"""What the machine of a deployment decides: from a slot's record, the situation and what happened."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from agent.core.backoff import DEPLOYMENT, REPAIR_S, ROLLBACK_TRIES
from agent.core.lifecycle import TRANSITIONS, UNDER_WAY, Effect, State
from agent.core.local_policy import Wait
from agent.core.machine import install, trial
from agent.core.machine.decision import Decision, PublishEvent, RetryStart, Situation, Upkeep, step_failed
from agent.core.machine.install import desired_changed
from agent.core.probation import MAX_ENDS, Tally
from agent.core.slots import Choice, SlotRecord, Trial
from agent.errors import AgentError, PermanentError, TransientError
from registry.contracts.catalogue.manifest import Parity
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import DeploymentPolicy, Phase, ShadowPolicy
from registry.contracts.device.messages import DesiredModel
from tests.fakes.registry_simulator import one_file_manifest

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
BOOT = "boot 1"
WAIT = Wait(DeploymentCode.LEASE, "a lease of the line", NOW + timedelta(hours=1))
CRASHED = TransientError(DeploymentCode.WORKER_CRASHED, "signal 11")


def wanted(version: str, **policy: Any) -> DesiredModel:
    manifest = one_file_manifest(version.encode(), version=version).canonical_digest()
    return DesiredModel(version=version, manifest=manifest, policy=DeploymentPolicy(**policy))


def choice(version: str, **fields: Any) -> Choice:
    manifest = one_file_manifest(version.encode(), version=version)
    variant = manifest.variants[0]
    return Choice(
        model="lenet",
        version=version,
        manifest=manifest.canonical_digest(),
        variant=variant,
        variant_digest=variant.canonical_digest(),
        backend="fake",
        profile="throughput",
        **fields,
    )


OLD, NEW = choice("1.0.0"), choice("2.0.0")


def slot(state: State, **fields: Any) -> SlotRecord:
    """1.0.0 is proven and serves; 2.0.0 is desired."""
    known = {"desired": wanted("2.0.0"), "active": OLD, "proven": True, "candidate": NEW, "boot": BOOT}
    return SlotRecord.model_validate({"model": "lenet", "state": state, **known, **fields})


def on_trial(state: State = State.PROBATION, **fields: Any) -> SlotRecord:
    """2.0.0 serves and has still to prove itself; 1.0.0 is what to go back to."""
    return slot(
        state, **{"active": NEW, "proven": False, "previous": OLD, "candidate": None, "trial": Trial(), **fields}
    )


def at(**fields: Any) -> Situation:
    return Situation(**{"now": NOW, "monotonic": 1000.0, "chance": lambda: 1.0, "boot": BOOT, **fields})


def made(decision: Decision | None) -> Decision:
    assert decision is not None
    return decision


def test_what_is_overtaken_ends_under_its_own_name_before_the_next_is_taken_up() -> None:
    first = made(desired_changed(slot(State.DOWNLOADING), at(), wanted("3.0.0"), 7))
    assert (first.record.state, first.record.desired) == (State.SUPERSEDED, wanted("2.0.0"))
    second = made(desired_changed(first.record, at(), wanted("3.0.0"), 7))
    assert (second.record.state, second.record.generation) == (State.OFFERED, 7)
    assert second.record.desired == wanted("3.0.0")


@pytest.mark.parametrize("state", sorted(UNDER_WAY - {State.PROBATION}))
def test_a_policy_that_changes_under_way_is_written_down_and_moves_nothing(state: State) -> None:
    paused = wanted("2.0.0", hold=True)
    taken = made(desired_changed(slot(state), at(), paused, 7))
    assert (taken.record.state, taken.record.desired, taken.commands) == (state, paused, ())
    assert desired_changed(taken.record, at(), paused, 7) is None


@pytest.mark.parametrize("state", [State.FAILED, State.ROLLED_BACK, State.ROLLBACK_FAILED])
def test_what_ended_badly_is_not_begun_again_by_the_same_desired_state(state: State) -> None:
    assert made(desired_changed(slot(state), at(), wanted("2.0.0"), 7)).commands == ()
    again = wanted("2.0.0").model_copy(update={"attempt": 1})
    assert made(desired_changed(slot(state), at(), again, 7)).record.state is State.OFFERED


def test_what_serves_is_settled_on_without_a_worker() -> None:
    settled = made(desired_changed(slot(State.ROLLED_BACK), at(), wanted("1.0.0"), 7))
    assert (settled.record.state, settled.commands[0]) == (State.COMMITTED, Upkeep.FORGIVE)
    assert not {Effect.RESOLVE, Effect.WARM} & set(settled.commands)


@pytest.mark.parametrize("state", [State.RETIRING, State.ROLLING_BACK])
def test_what_takes_moments_is_finished_first(state: State) -> None:
    assert desired_changed(slot(state), at(), None, 7) is None


def test_a_step_that_fails_for_now_is_tried_again_as_late_as_the_other_side_asks() -> None:
    soon = step_failed(slot(State.DOWNLOADING, attempts=2), at(), CRASHED)
    assert (soon.record.state, soon.record.attempts, soon.record.failed_in) == (State.WAITING, 3, Phase.DOWNLOADING)
    assert soon.retry_s == DEPLOYMENT.delay(3, 1.0)
    assert Effect.SCHEDULE_RETRY in soon.commands
    late = step_failed(slot(State.DOWNLOADING), at(), TransientError("x", "busy", retry_after_s=900.0))
    assert (late.retry_s, late.record.until) == (900.0, NOW + timedelta(seconds=900))


def test_a_download_that_comes_further_each_time_is_never_given_up() -> None:
    further = TransientError(DeploymentCode.WORKER_CRASHED, "cut off", progress=True)
    assert step_failed(slot(State.DOWNLOADING, attempts=99), at(), further).record.attempts == 1


@pytest.mark.parametrize(
    ("error", "attempts"), [(PermanentError(DeploymentCode.LOAD_FAILED, "no"), 0), (CRASHED, DEPLOYMENT.limit - 1)]
)
def test_a_step_that_fails_for_good_or_too_often_gives_the_deployment_up(error: AgentError, attempts: int) -> None:
    end = step_failed(slot(State.WARMING, attempts=attempts), at(), error)
    assert (end.record.state, end.record.failed_in, end.record.active) == (State.FAILED, Phase.WARMING, OLD)


def test_a_variant_in_quarantine_is_not_downloaded() -> None:
    bad = made(trial.worker_died(on_trial(trial=Trial(deaths=9)), at())).record.quarantine
    barred = install.resolved(slot(State.OFFERED, quarantine=bad), at(), NEW, None)
    assert (barred.record.state, barred.record.fault and barred.record.fault.code) == (
        State.FAILED,
        DeploymentCode.QUARANTINED,
    )


@pytest.mark.parametrize(
    ("decide", "before", "free", "waits"),
    [
        (lambda r, wait: install.resolved(r, at(), NEW, wait), State.OFFERED, State.DOWNLOADING, State.DEFERRED),
        (lambda r, wait: install.admitted(r, at(), wait), State.VERIFIED, State.WARMING, State.DEFERRED),
        (lambda r, wait: install.admitted(r, at(), wait), State.STAGED, State.WARMING, State.DEFERRED),
        (lambda r, wait: install.reconsidered(r, at(), wait), State.DEFERRED, State.OFFERED, State.DEFERRED),
        (lambda r, wait: install.warmed(r, at(), None, wait), State.WARMING, State.SWITCHING, State.DEFERRED),
    ],
)
def test_the_host_is_waited_for_before_the_download_the_load_and_the_switch(
    decide: Callable[[SlotRecord, Wait | None], Decision | None], before: State, free: State, waits: State
) -> None:
    assert made(decide(slot(before), None)).record.state is free
    waiting = made(decide(slot(before), WAIT)).record
    assert (waiting.state, waiting.until, waiting.fault.code if waiting.fault else "") == (waits, WAIT.until, WAIT.code)


def test_a_host_that_says_the_same_again_is_not_written_down_again() -> None:
    deferred = made(install.admitted(slot(State.VERIFIED), at(), WAIT)).record
    assert install.reconsidered(deferred, at(), WAIT) is None


def test_a_held_deployment_is_staged_once_and_stays_so() -> None:
    held = slot(State.VERIFIED, desired=wanted("2.0.0", hold=True))
    staged = made(install.admitted(held, at(), None)).record
    assert staged.state is State.STAGED
    assert install.admitted(staged, at(), None) is None


def test_with_nothing_answering_there_is_no_way_but_on() -> None:
    held = slot(State.WARMING, desired=wanted("2.0.0", hold=True))
    assert install.warmed(held, at(cleared=True), None, WAIT).record.state is State.SWITCHING


def test_wrong_answers_never_reach_the_switch() -> None:
    off = Parity(cases=1, max_abs=1.0, max_rel=1.0, passed=False)
    end = install.warmed(slot(State.WARMING), at(), off, None).record
    assert (end.state, end.quarantine[0].variant_digest) == (State.FAILED, NEW.variant_digest)


@pytest.mark.parametrize(
    ("situation", "state"),
    [(at(serving=OLD), State.SHADOWING), (at(), State.SWITCHING), (at(serving=OLD, cleared=True), State.SWITCHING)],
    ids=["beside", "nothing serves", "ended first"],
)
def test_a_shadow_is_begun_where_something_serves_beside_the_candidate(situation: Situation, state: State) -> None:
    asks = slot(State.WARMING, desired=wanted("2.0.0", shadow=ShadowPolicy()))
    assert install.warmed(asks, situation, None, None).record.state is state


def test_a_switch_makes_the_last_committed_version_the_one_to_go_back_to() -> None:
    after = install.switched(slot(State.SWITCHING), at(), Trial(), 0.0).record
    assert (after.active, after.proven, after.previous, after.candidate) == (NEW, False, OLD, None)
    third = choice("3.0.0")
    overtaken = install.switched(on_trial(State.SWITCHING, candidate=third), at(), Trial(), 0.0).record
    assert (overtaken.active, overtaken.previous) == (third, OLD)


def test_a_refused_write_begins_the_state_again_and_a_worker_that_answers_is_not_loaded_twice() -> None:
    for state in TRANSITIONS:
        if install.is_stuck(slot(state), at()):
            assert Effect.CANCEL in made(install.due(slot(state), at())).commands
            assert not install.is_stuck(slot(state), at(step_runs=True))
    assert made(install.due(slot(State.SWITCHING), at(serving=NEW))).commands == (Effect.SWITCH,)


@pytest.mark.parametrize("state", sorted(install.RESTS))
@pytest.mark.parametrize("serving", [None, OLD, NEW], ids=["nothing", "old", "new"])
@pytest.mark.parametrize("given_up", [True, False])
def test_where_a_slot_rests_nothing_is_ever_due(state: State, serving: Choice | None, given_up: bool) -> None:
    assert install.due(slot(state), at(serving=serving, given_up=given_up)) is None


def test_nothing_is_due_while_a_retry_is_pending() -> None:
    assert install.due(slot(State.WAITING), at(retry_pending=True)) is None
    assert made(install.due(slot(State.WAITING), at())).record.state is State.OFFERED


def test_a_candidate_that_keeps_taking_the_agent_down_is_given_up_at_a_start() -> None:
    loaded = slot(State.WARMING, attempts=DEPLOYMENT.limit)
    assert install.restarted(loaded, at()).record.state is State.FAILED
    assert install.restarted(slot(State.WARMING), at()).record.state is State.OFFERED


def test_a_cut_of_power_and_an_order_count_as_no_end() -> None:
    def ends(record: SlotRecord, situation: Situation) -> int:
        after = trial.agent_started(record, situation).record
        assert after.trial is not None
        assert after.boot == situation.boot
        return after.trial.ends

    assert ends(on_trial(), at()) == 1
    assert ends(on_trial(), at(boot="boot 2")) == 0
    assert ends(made(trial.agent_stops(on_trial(), at())).record, at()) == 0


@pytest.mark.parametrize("bad", [Trial(deaths=9), Trial(ends=MAX_ENDS)], ids=["deaths", "ends"])
def test_a_version_that_fails_its_probation_is_taken_back_and_goes_into_quarantine(bad: Trial) -> None:
    back = trial.assess(on_trial(trial=bad), at())
    assert (back.record.state, back.record.active, back.record.proven) == (State.ROLLING_BACK, OLD, True)
    assert [entry.version for entry in back.record.quarantine] == ["2.0.0"]
    assert back.commands[-2:] == (Effect.ROLL_BACK, Upkeep.REVIVE)


def test_a_first_version_that_fails_goes_on_answering() -> None:
    end = trial.assess(on_trial(previous=None, trial=Trial(deaths=9)), at()).record
    assert (end.state, end.active, end.trial) == (State.FAILED, NEW, None)


@pytest.mark.parametrize("state", [State.DOWNLOADING, State.FAILED, State.WAITING])
def test_what_was_superseded_on_trial_is_taken_back_beside_the_deployment_under_way(state: State) -> None:
    back = trial.assess(on_trial(state, trial=Trial(deaths=9)), at())
    assert (back.record.state, back.record.active) == (state, OLD)
    told = [command for command in back.commands if isinstance(command, PublishEvent)]
    assert [(event.phase, event.code) for event in told] == [("taken_back", DeploymentCode.PROBATION_CRASHES)]
    assert Upkeep.MAKE_ROOM in back.commands


def test_a_probation_passes_when_its_time_is_over_and_it_answers() -> None:
    late = {"watched_since": 0.0, "tally": Tally(answered=5)}
    assert trial.assess(on_trial(), at(**late)).record.state is State.PROBATION
    done = trial.assess(on_trial(), at(serving=NEW, **late)).record
    assert (done.state, done.proven, done.trial) == (State.COMMITTED, True, None)
    held = on_trial(desired=wanted("2.0.0", hold=True))
    kept = trial.assess(held, at(serving=NEW, **late)).record
    assert (kept.state, kept.fault.code if kept.fault else "") == (State.PROBATION, DeploymentCode.HELD)


def test_damaged_files_and_another_host_are_no_fault_of_a_version_on_trial() -> None:
    rot = TransientError(DeploymentCode.DIGEST_MISMATCH, "bit rot")
    again = trial.start_failed(on_trial(), at(), rot).record
    assert (again.state, again.active, again.quarantine) == (State.WAITING, OLD, ())


def test_what_cannot_be_started_is_tried_again_unless_it_was_verified_that_it_cannot() -> None:
    assert trial.start_failed(slot(State.COMMITTED), at(), CRASHED).commands == (RetryStart(CRASHED),)
    unfit = PermanentError(DeploymentCode.VARIANT_UNFIT, "the accelerator is gone")
    lost = trial.start_failed(slot(State.COMMITTED), at(), unfit)
    assert (lost.record.active, [type(command) for command in lost.commands]) == (None, [PublishEvent])


def test_a_rollback_that_does_not_come_up_is_told_and_tried_on_slowly() -> None:
    record = slot(State.ROLLING_BACK)
    for _ in range(ROLLBACK_TRIES - 1):
        decision = trial.start_failed(record, at(), CRASHED)
        assert decision.commands == (RetryStart(CRASHED),)
        record = decision.record
    failed = trial.start_failed(record, at(), CRASHED)
    assert (failed.record.state, failed.retry_s, failed.commands[-1]) == (
        State.ROLLBACK_FAILED,
        REPAIR_S,
        Upkeep.GIVE_UP,
    )
    later = trial.repair_failed(failed.record, at(), CRASHED)
    assert (later.record.state, later.retry_s) == (State.ROLLBACK_FAILED, REPAIR_S)
    assert made(trial.came_up(later.record, at())).record.state is State.ROLLED_BACK


@pytest.mark.parametrize("code", [DeploymentCode.PROBATION_ERRORS, DeploymentCode.LOAD_FAILED])
def test_a_restart_tries_once_what_this_host_failed_and_never_what_was_judged(code: str) -> None:
    failed = made(step_failed(slot(State.WARMING), at(), PermanentError(code, "no"))).record
    tried = install.tried_once(failed, at())
    assert (tried is None) == (code == DeploymentCode.PROBATION_ERRORS)


def test_only_what_failed_because_of_the_host_is_tried_again_when_the_host_changes() -> None:
    unfit = step_failed(slot(State.OFFERED), at(), PermanentError(DeploymentCode.NO_FITTING_VARIANT, "none")).record
    assert made(install.host_changed(unfit, at())).record.state is State.OFFERED
    refused = step_failed(slot(State.OFFERED), at(), PermanentError(DeploymentCode.REGISTRY_REFUSED, "no")).record
    assert install.host_changed(refused, at()) is None
