"""THE state machine of a deployment on this device: everything that moves one stands in these two tables.

One model has one slot, and a slot has at most one deployment under way. What serves (the slot's active place) is
no state of the deployment: it goes on serving in every state here, and is kept alive beside it. So a deployment
that fails costs nothing but itself.

The reconciler turns what happens into an `Event`, calls `advance`, writes the new state down, and only then does
the effects. A power cut therefore always lands in a row of `ON_RESTART`.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.contracts.enums import StrEnum


class State(StrEnum):
    """What the deployment is doing. The journal keeps these words."""

    IDLE = "idle"
    """Nothing under way: what is desired serves, or nothing is desired."""
    RESOLVING = "resolving"
    """Fetching the manifest, choosing the variant."""
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    """Every byte is hashed, or was while it came in."""
    WARMING = "warming"
    """A worker loads the candidate, checks its signature, runs and measures it."""
    SWITCHING = "switching"
    WAITING = "waiting"
    """A step failed and is tried again later."""
    FAILED = "failed"
    """Given up; waits for another desired state."""
    RETIRING = "retiring"
    """No longer desired: requests are refused, what runs is finished, then the worker ends."""


class Event(StrEnum):
    """What may happen to a deployment."""

    ASSIGNED = "assigned"
    """Something that does not serve is desired, or desired anew."""
    SETTLED = "settled"
    """What is desired serves already: a deployment under way is pointless."""
    WITHDRAWN = "withdrawn"
    """The model is no longer desired."""
    STEP_DONE = "step_done"
    RETRY_LATER = "retry_later"
    """The step failed in a way that may pass."""
    GIVEN_UP = "given_up"
    """The step failed for good, or too often."""
    RETRY_DUE = "retry_due"


class Effect(StrEnum):
    """What the reconciler does on entering a state, in order."""

    CANCEL = "cancel"
    """Stop the step that runs; drop the candidate's worker."""
    RESOLVE = "resolve"
    DOWNLOAD = "download"
    VERIFY = "verify"
    WARM = "warm"
    SWITCH = "switch"
    SCHEDULE_RETRY = "schedule_retry"
    RETIRE = "retire"
    FORGET = "forget"
    """Remove the slot from the journal."""
    REPORT = "report"


@dataclass(frozen=True)
class Step:
    """The state to be in, and what to do once that is written down."""

    to: State
    effects: tuple[Effect, ...] = ()


class InvalidTransitionError(Exception):
    """The event has no meaning in that state: a fault of the reconciler."""


_S, _E, _F = State, Event, Effect
_BEGIN = Step(_S.RESOLVING, (_F.CANCEL, _F.REPORT, _F.RESOLVE))
_SETTLE = Step(_S.IDLE, (_F.CANCEL, _F.REPORT))
_RETIRE = Step(_S.RETIRING, (_F.CANCEL, _F.REPORT, _F.RETIRE))
_LATER = Step(_S.WAITING, (_F.CANCEL, _F.SCHEDULE_RETRY, _F.REPORT))
_GIVE_UP = Step(_S.FAILED, (_F.CANCEL, _F.REPORT))


def _working(done: Step) -> dict[Event, Step]:
    """A state in which a step runs: `done` is where its success leads; the rest is the same for all of them."""
    return {
        _E.STEP_DONE: done,
        _E.RETRY_LATER: _LATER,
        _E.GIVEN_UP: _GIVE_UP,
        _E.ASSIGNED: _BEGIN,
        _E.SETTLED: _SETTLE,
        _E.WITHDRAWN: _RETIRE,
    }


_RESTING: dict[Event, Step] = {_E.ASSIGNED: _BEGIN, _E.SETTLED: _SETTLE, _E.WITHDRAWN: _RETIRE}

TRANSITIONS: dict[State, dict[Event, Step]] = {
    _S.IDLE: {_E.ASSIGNED: _BEGIN, _E.WITHDRAWN: _RETIRE},
    _S.RESOLVING: _working(Step(_S.DOWNLOADING, (_F.REPORT, _F.DOWNLOAD))),
    _S.DOWNLOADING: _working(Step(_S.VERIFYING, (_F.REPORT, _F.VERIFY))),
    _S.VERIFYING: _working(Step(_S.WARMING, (_F.REPORT, _F.WARM))),
    _S.WARMING: _working(Step(_S.SWITCHING, (_F.REPORT, _F.SWITCH))),
    _S.SWITCHING: _working(Step(_S.IDLE, (_F.REPORT,))),
    _S.WAITING: {**_RESTING, _E.RETRY_DUE: Step(_S.RESOLVING, (_F.REPORT, _F.RESOLVE))},
    _S.FAILED: _RESTING,
    # A model that is desired again while its worker drains is begun when the slot is free, as a new one.
    _S.RETIRING: {_E.STEP_DONE: Step(_S.IDLE, (_F.FORGET, _F.REPORT))},
}

ON_RESTART: dict[State, Step] = {
    _S.IDLE: Step(_S.IDLE),
    _S.RESOLVING: Step(_S.RESOLVING, (_F.RESOLVE,)),
    # The manifest is in the cache by now, so resolving again is cheap; the download goes on where it stopped.
    _S.DOWNLOADING: Step(_S.RESOLVING, (_F.RESOLVE,)),
    _S.VERIFYING: Step(_S.RESOLVING, (_F.RESOLVE,)),
    # Workers died with the agent, and what lies on disk is not trusted: every byte is checked again.
    _S.WARMING: Step(_S.RESOLVING, (_F.RESOLVE,)),
    _S.SWITCHING: Step(_S.RESOLVING, (_F.RESOLVE,)),
    _S.WAITING: Step(_S.RESOLVING, (_F.RESOLVE,)),
    # The host may have changed while the agent was away (a driver, memory, a disk): one new try.
    _S.FAILED: Step(_S.RESOLVING, (_F.RESOLVE,)),
    _S.RETIRING: Step(_S.RETIRING, (_F.RETIRE,)),
}


def advance(state: State, event: Event) -> Step:
    """The one step that `event` means in `state`.

    Raises:
        InvalidTransitionError: the table has no such edge.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise InvalidTransitionError(f"{event} means nothing in state {state}") from None
