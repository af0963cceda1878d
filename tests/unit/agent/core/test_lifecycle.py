"""The deployment's state machine: properties of its two tables."""

from __future__ import annotations

import pytest

from agent.core.lifecycle import (
    BUSY,
    ON_RESTART,
    PHASES,
    TRANSITIONS,
    UNDER_WAY,
    DeploymentEvent,
    Effect,
    InvalidTransitionError,
    State,
    advance,
)
from agent.core.machine.decision import Upkeep
from agent.reconciler.installation import INSTALLS
from agent.reconciler.slot import COMMANDS
from registry.contracts.device.deployments import Phase

WORK = {
    State.OFFERED: Effect.RESOLVE,
    State.DOWNLOADING: Effect.DOWNLOAD,
    State.VERIFYING: Effect.VERIFY,
    State.VERIFIED: Effect.ADMIT,
    State.WARMING: Effect.WARM,
    State.SHADOWING: Effect.SHADOW,
    State.SWITCHING: Effect.SWITCH,
    State.ROLLING_BACK: Effect.ROLL_BACK,
    State.RETIRING: Effect.RETIRE,
}


def edges() -> set[tuple[State, State]]:
    return {(state, step.to) for state, row in TRANSITIONS.items() for step in row.values()}


def before(state: State) -> set[State]:
    return {source for source, to in edges() if to is state}


def test_every_state_has_a_row_in_both_tables_and_a_word_on_the_wire() -> None:
    assert set(TRANSITIONS) == set(ON_RESTART) == set(PHASES) == set(State)


def test_every_effect_is_done_somewhere_and_every_event_happens() -> None:
    used = {e for row in TRANSITIONS.values() for step in row.values() for e in step.effects}
    used |= {e for step in ON_RESTART.values() for e in step.effects}
    assert used == set(Effect)
    assert set(COMMANDS) | set(INSTALLS) == set(Effect) | set(Upkeep)
    assert {event for row in TRANSITIONS.values() for event in row} == set(DeploymentEvent)


def test_every_state_can_be_reached_and_left() -> None:
    assert {to for _, to in edges()} == set(State)
    assert {state for state, to in edges() if to is not state} == set(State)


def test_every_state_leads_to_every_other() -> None:
    for start in State:
        seen = {start}
        while fresh := {to for source, to in edges() if source in seen} - seen:
            seen |= fresh
        assert seen == set(State)


def test_an_event_without_a_meaning_in_a_state_is_refused_by_name() -> None:
    with pytest.raises(InvalidTransitionError, match="probation_passed means nothing in state downloading"):
        advance(State.DOWNLOADING, DeploymentEvent.PROBATION_PASSED)


def test_nothing_switches_before_it_was_verified_and_warmed() -> None:
    assert before(State.SWITCHING) == {State.WARMING, State.SHADOWING}
    assert before(State.SHADOWING) == {State.WARMING}
    assert before(State.WARMING) == {State.VERIFIED, State.STAGED}
    assert before(State.STAGED) == {State.VERIFIED, State.WARMING, State.SHADOWING}
    assert before(State.VERIFIED) == {State.VERIFYING}
    assert before(State.VERIFYING) == {State.DOWNLOADING}


def test_only_a_probation_or_what_had_passed_one_is_committed() -> None:
    for state in before(State.COMMITTED) - {State.PROBATION}:
        assert {event for event, step in TRANSITIONS[state].items() if step.to is State.COMMITTED} == {
            DeploymentEvent.SETTLED
        }


def test_no_restart_skips_verification_or_probation() -> None:
    for state, step in ON_RESTART.items():
        assert step.to in {state, State.OFFERED}
        assert step.to not in {State.VERIFIED, State.STAGED, State.WARMING, State.SHADOWING, State.SWITCHING}


@pytest.mark.parametrize(("state", "effect"), WORK.items())
def test_a_state_that_works_is_entered_with_its_work(state: State, effect: Effect) -> None:
    steps = [step for row in TRANSITIONS.values() for step in row.values() if step.to is state]
    steps += [step for step in ON_RESTART.values() if step.to is state]
    assert all(step.effects[-1] is effect for step in steps)


def test_the_newest_wish_wins_over_whatever_is_under_way() -> None:
    for state in UNDER_WAY:
        ends = {
            event: advance(state, event)
            for event in (DeploymentEvent.ASSIGNED, DeploymentEvent.CALLED_OFF, DeploymentEvent.WITHDRAWN)
        }
        assert [step.to for step in ends.values()] == [State.SUPERSEDED, State.CANCELLED, State.CANCELLED]
        assert all(Effect.CANCEL in step.effects for step in ends.values())
    assert set(WORK) - UNDER_WAY == {State.ROLLING_BACK, State.RETIRING}


def test_a_rollback_needs_no_step_that_could_need_the_network() -> None:
    network = {Effect.RESOLVE, Effect.DOWNLOAD}
    assert not network & set(advance(State.PROBATION, DeploymentEvent.PROBATION_FAILED).effects)
    assert not network & set(ON_RESTART[State.ROLLING_BACK].effects)


def test_every_phase_of_the_wire_is_some_state() -> None:
    assert {phase for phase in PHASES.values() if phase is not None} == set(Phase)


def test_what_is_busy_has_work() -> None:
    assert set(WORK) - {State.ROLLING_BACK, State.SHADOWING} == BUSY
