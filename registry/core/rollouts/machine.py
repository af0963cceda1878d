"""THE state machine of a rollout: everything that moves one stands in this table.

A move is a person's command or an event that the registry found (`decide`). It is written by compare-and-set on the
rollout's revision, so of two that come at once one loses and looks again. Abort is legal wherever anything is under
way, and from `aborting` nothing leads to success. A final state is left only by a command that says so: rollback and
retry are new generations, with the history kept.
"""

from __future__ import annotations

from registry.contracts.enums import StrEnum
from registry.contracts.rollout.spec import Hold, RolloutSpec
from registry.contracts.rollout.states import Command, RolloutState


class RolloutTrigger(StrEnum):
    """What the registry itself finds out about a rollout."""

    PLANNED = "planned"
    """The plan is frozen, and nobody has to approve it."""
    PLANNED_FOR_APPROVAL = "planned_for_approval"
    PLAN_FAILED = "plan_failed"
    """Nobody would get it, or planning took too long: back to the draft, with the reason."""
    REPLAN_FAILED = "replan_failed"
    """The same of a retry: devices have the version already, so it is no draft any more."""
    DUE = "due"
    """`start_at` has come."""
    GATE_FAILED = "gate_failed"
    GATE_FAILED_ROLLBACK = "gate_failed_rollback"
    """The gate failed, and the spec says to roll back at once."""
    INCONCLUSIVE = "inconclusive"
    YANKED = "yanked"
    """Its version was yanked: it offers it to nobody more."""
    FINISHED = "finished"
    FINISHED_WITH_EXCEPTIONS = "finished_with_exceptions"
    EXPIRED = "expired"
    QUIET = "quiet"
    """Nothing is under way on any device any more."""
    BACK = "back"
    """Every device is back on its own last good version."""
    NOT_ALL_BACK = "not_all_back"


_S, _C, _E = RolloutState, Command, RolloutTrigger
Move = Command | RolloutTrigger

TRANSITIONS: dict[RolloutState, dict[Move, RolloutState | None]] = {
    _S.DRAFT: {_C.SUBMIT: _S.PLANNING, _C.DELETE: None},
    _S.PLANNING: {
        _E.PLANNED: _S.SCHEDULED,
        _E.PLANNED_FOR_APPROVAL: _S.AWAITING_APPROVAL,
        _E.PLAN_FAILED: _S.DRAFT,
        _E.REPLAN_FAILED: _S.PAUSED,
        _C.ABORT: _S.ABORTING,
    },
    _S.AWAITING_APPROVAL: {
        _C.APPROVE: _S.SCHEDULED,
        _C.DENY: _S.DENIED,
        _C.ABORT: _S.ABORTING,
        _C.ROLLBACK: _S.ROLLING_BACK,
        _E.EXPIRED: _S.EXPIRING,
    },
    _S.DENIED: {_C.SUBMIT: _S.PLANNING, _C.ABORT: _S.ABORTING, _C.ROLLBACK: _S.ROLLING_BACK, _C.DELETE: None},
    _S.SCHEDULED: {_E.DUE: _S.RUNNING, _C.ABORT: _S.ABORTING, _E.EXPIRED: _S.EXPIRING},
    _S.RUNNING: {
        _C.PAUSE: _S.PAUSED,
        _C.ABORT: _S.ABORTING,
        _C.ROLLBACK: _S.ROLLING_BACK,
        _E.GATE_FAILED: _S.PAUSED,
        _E.GATE_FAILED_ROLLBACK: _S.ROLLING_BACK,
        _E.INCONCLUSIVE: _S.PAUSED,
        _E.YANKED: _S.PAUSED,
        _E.FINISHED: _S.SUCCEEDED,
        _E.FINISHED_WITH_EXCEPTIONS: _S.COMPLETED_WITH_EXCEPTIONS,
        _E.EXPIRED: _S.EXPIRING,
    },
    _S.PAUSED: {
        _C.RESUME: _S.RUNNING,
        _C.RETRY: _S.PLANNING,
        _C.ABORT: _S.ABORTING,
        _C.ROLLBACK: _S.ROLLING_BACK,
        _E.EXPIRED: _S.EXPIRING,
    },
    _S.ABORTING: {_E.QUIET: _S.ABORTED, _C.ROLLBACK: _S.ROLLING_BACK},
    _S.ABORTED: {_C.RETRY: _S.PLANNING, _C.ROLLBACK: _S.ROLLING_BACK, _C.DELETE: None},
    _S.ROLLING_BACK: {_E.BACK: _S.ROLLED_BACK, _E.NOT_ALL_BACK: _S.ROLLBACK_INCOMPLETE, _C.ABORT: _S.ABORTING},
    _S.ROLLED_BACK: {_C.RETRY: _S.PLANNING, _C.DELETE: None},
    _S.ROLLBACK_INCOMPLETE: {_C.ROLLBACK: _S.ROLLING_BACK, _C.DELETE: None},
    _S.EXPIRING: {_E.QUIET: _S.COMPLETED_WITH_EXCEPTIONS, _C.ROLLBACK: _S.ROLLING_BACK},
    _S.SUCCEEDED: {_C.ROLLBACK: _S.ROLLING_BACK, _C.DELETE: None},
    _S.COMPLETED_WITH_EXCEPTIONS: {_C.RETRY: _S.PLANNING, _C.ROLLBACK: _S.ROLLING_BACK, _C.DELETE: None},
}
"""To None: the rollout is removed."""

FINAL = frozenset(
    {_S.ABORTED, _S.ROLLED_BACK, _S.ROLLBACK_INCOMPLETE, _S.SUCCEEDED, _S.COMPLETED_WITH_EXCEPTIONS, _S.DENIED}
)
"""Nothing happens in these by itself. A denied one may be changed and submitted again."""
AT_REST = FINAL | {_S.DRAFT}
"""No timer looks at these."""
WITHDRAWS = frozenset({_S.ABORTING, _S.EXPIRING})
"""On entering these, what has not switched returns to its last good version, without an acknowledgement."""

OF_A_RETRY = frozenset({_S.AWAITING_APPROVAL, _S.DENIED})
"""In these there is something to roll back in a later generation only: before, no device has heard of the rollout."""

TELLS_HOLD = frozenset({_S.RUNNING, _S.PAUSED}) | WITHDRAWS
"""In these devices are told to hold, or to go on: what has switched when a rollout is aborted ends its probation."""


class InvalidMoveError(Exception):
    """The move has no meaning in that state; `can` says which commands have."""

    def __init__(self, state: RolloutState, move: Move, can: tuple[Command, ...]) -> None:
        named = ", ".join(can) or "nothing: it goes on by itself"
        super().__init__(f"a rollout that is {state} cannot {move}; it can: {named}")


def advance(state: RolloutState, move: Move) -> RolloutState | None:
    """The state that `move` leads to; None: the rollout is removed.

    Raises:
        InvalidMoveError: the table has no such edge.
    """
    try:
        return TRANSITIONS[state][move]
    except KeyError:
        raise InvalidMoveError(state, move, legal(state)) from None


def legal(state: RolloutState, generation: int = 2) -> tuple[Command, ...]:
    """What a person may ask now, in the order of `Command`; in the first generation not what is only OF_A_RETRY."""
    can = tuple(command for command in Command if command in TRANSITIONS[state])
    nothing_to_undo = generation == 1 and state in OF_A_RETRY
    return tuple(command for command in can if not (nothing_to_undo and command is _C.ROLLBACK))


def holds(spec: RolloutSpec, state: RolloutState) -> bool:
    """Whether the desired state of its devices says `hold`: download, do not switch, do not commit.

    In states that are not in TELLS_HOLD it goes on saying what it said before: a retry that waits for approval lets
    nobody go on, and who waits to be told to go back does not commit before.
    """
    return state is RolloutState.PAUSED and spec.hold is Hold.BEFORE_SWITCH
