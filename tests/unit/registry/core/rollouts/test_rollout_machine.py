"""The rollout's state machine: properties of its table."""

from __future__ import annotations

import re

import pytest

from registry.contracts.rollout.spec import Fleet, Hold, RolloutSpec
from registry.contracts.rollout.states import Command, RolloutState
from registry.core.rollouts.machine import (
    AT_REST,
    FINAL,
    TRANSITIONS,
    InvalidMoveError,
    RolloutTrigger,
    advance,
    holds,
)

S, C = RolloutState, Command


def reachable(start: RolloutState) -> set[RolloutState]:
    found, todo = {start}, [start]
    while todo:
        for to in TRANSITIONS[todo.pop()].values():
            if to is not None and to not in found:
                found.add(to)
                todo.append(to)
    return found


def test_every_state_has_a_row_and_is_reached_from_a_draft() -> None:
    assert set(TRANSITIONS) == set(S) == reachable(S.DRAFT)


@pytest.mark.parametrize("state", S)
def test_no_state_is_without_a_way_out(state: RolloutState) -> None:
    assert set(TRANSITIONS[state].values()) - {state}


@pytest.mark.parametrize("state", sorted(set(S) - AT_REST))
def test_what_is_not_at_rest_can_end_without_a_person(state: RolloutState) -> None:
    ended, here = {state}, [state]
    while here:
        for move, to in TRANSITIONS[here.pop()].items():
            if isinstance(move, RolloutTrigger) and to is not None and to not in ended:
                ended.add(to)
                here.append(to)
    assert ended & AT_REST


def accepts(state: RolloutState, command: Command) -> bool:
    try:
        advance(state, command)
    except InvalidMoveError:
        return False
    return True


@pytest.mark.parametrize("state", S)
def test_a_refusal_names_the_commands_that_would_be_taken_and_no_other(state: RolloutState) -> None:
    refused = next(command for command in Command if not accepts(state, command))
    with pytest.raises(InvalidMoveError) as refusal:
        advance(state, refused)
    named = {c for c in set(Command) - {refused} if re.search(rf"\b{c}\b", str(refusal.value))}
    assert named == {command for command in Command if accepts(state, command)}


@pytest.mark.parametrize("state", sorted(FINAL - {S.DENIED}))
def test_a_final_state_is_left_only_by_the_commands_that_say_so(state: RolloutState) -> None:
    assert set(TRANSITIONS[state]) <= {C.ROLLBACK, C.RETRY, C.DELETE}


@pytest.mark.parametrize("state", [S.PLANNING, S.AWAITING_APPROVAL, S.SCHEDULED, S.RUNNING, S.PAUSED, S.ROLLING_BACK])
def test_abort_is_legal_wherever_something_is_under_way(state: RolloutState) -> None:
    assert TRANSITIONS[state][C.ABORT] is S.ABORTING


def test_abort_wins_over_success() -> None:
    assert set(TRANSITIONS[S.ABORTING].values()) == {S.ABORTED, S.ROLLING_BACK}


def test_only_a_rollout_that_runs_can_succeed() -> None:
    assert {state for state, row in TRANSITIONS.items() if S.SUCCEEDED in row.values()} == {S.RUNNING}


def test_nothing_runs_that_was_not_planned_and_approved() -> None:
    into = {state for state, row in TRANSITIONS.items() if S.RUNNING in row.values()}
    assert into == {S.SCHEDULED, S.PAUSED}
    assert TRANSITIONS[S.PAUSED][C.RESUME] is S.RUNNING
    assert {state for state, row in TRANSITIONS.items() if S.SCHEDULED in row.values()} == {
        S.PLANNING,
        S.AWAITING_APPROVAL,
    }


def test_a_pause_holds_devices_before_the_switch_unless_the_spec_says_otherwise() -> None:
    spec = RolloutSpec(model="lenet", version="2", fleet=Fleet(selector="*"))
    assert [state for state in S if holds(spec, state)] == [S.PAUSED]
    assert not holds(spec.model_copy(update={"hold": Hold.NONE}), S.PAUSED)
