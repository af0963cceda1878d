"""The rollout's state machine: properties of its table."""

from __future__ import annotations

import pytest

from registry.contracts.rollout.spec import Fleet, Hold, RolloutSpec
from registry.contracts.rollout.states import Command, RolloutState
from registry.core.rollouts.machine import (
    AT_REST,
    FINAL,
    TRANSITIONS,
    InvalidMoveError,
    Move,
    RolloutTrigger,
    advance,
    holds,
    legal,
)

S, C = RolloutState, Command
MOVES: tuple[Move, ...] = (*Command, *RolloutTrigger)


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


@pytest.mark.parametrize("state", S)
@pytest.mark.parametrize("move", MOVES)
def test_every_move_in_every_state_is_a_step_or_refused_with_what_is_legal(state: RolloutState, move: Move) -> None:
    if move in TRANSITIONS[state]:
        assert advance(state, move) is TRANSITIONS[state][move]
    else:
        with pytest.raises(InvalidMoveError) as refused:
            advance(state, move)
        assert all(command in str(refused.value) for command in legal(state))


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
