"""The deployment's state machine: properties of its two tables."""

from __future__ import annotations

import pytest

from agent.core.lifecycle import ON_RESTART, TRANSITIONS, Effect, Event, InvalidTransitionError, State, advance

WORK = {
    State.RESOLVING: Effect.RESOLVE,
    State.DOWNLOADING: Effect.DOWNLOAD,
    State.VERIFYING: Effect.VERIFY,
    State.WARMING: Effect.WARM,
    State.SWITCHING: Effect.SWITCH,
    State.RETIRING: Effect.RETIRE,
}


def edges() -> set[tuple[State, State]]:
    return {(state, step.to) for state, row in TRANSITIONS.items() for step in row.values()}


def test_every_state_has_a_row_in_both_tables() -> None:
    assert set(TRANSITIONS) == set(ON_RESTART) == set(State)


def test_every_state_can_be_reached_and_left() -> None:
    assert {to for _, to in edges()} == set(State)
    assert {state for state, to in edges() if to is not state} == set(State)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_event_in_every_state_is_a_step_or_refused(state: State, event: Event) -> None:
    if event in TRANSITIONS[state]:
        assert advance(state, event) == TRANSITIONS[state][event]
    else:
        with pytest.raises(InvalidTransitionError, match=state):
            advance(state, event)


def test_nothing_switches_before_it_was_verified_and_warmed() -> None:
    before = {to: {state for state, target in edges() if target is to} for to in State}
    assert before[State.SWITCHING] == {State.WARMING}
    assert before[State.WARMING] == {State.VERIFYING}
    assert before[State.VERIFYING] == {State.DOWNLOADING}


def test_no_restart_skips_verification() -> None:
    assert {step.to for step in ON_RESTART.values()} <= {State.IDLE, State.RESOLVING, State.RETIRING}


@pytest.mark.parametrize(("state", "effect"), WORK.items())
def test_a_state_that_works_is_entered_with_its_work(state: State, effect: Effect) -> None:
    steps = [step for row in TRANSITIONS.values() for step in row.values() if step.to is state]
    steps += [step for step in ON_RESTART.values() if step.to is state]
    assert all(step.effects[-1] is effect for step in steps)


def test_what_is_under_way_can_always_be_called_off() -> None:
    for state in set(WORK) - {State.RETIRING} | {State.WAITING, State.FAILED}:
        for event in (Event.ASSIGNED, Event.SETTLED, Event.WITHDRAWN):
            assert Effect.CANCEL in advance(state, event).effects
