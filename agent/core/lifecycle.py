"""THE state machine of a deployment on this device: everything that moves one stands in these two tables.

One model has one slot, and a slot has at most one deployment under way. What should answer (the slot's active place)
is no state of the deployment: it is kept alive beside it in every state. So a deployment that fails before the switch
costs nothing but itself, and rolling back is making the previous version the active one again.

`agent.core.machine` turns what happens into a `DeploymentEvent` and says what is written down with the new state;
`agent.reconciler.slot` writes it down, and only then carries the effects out. A power cut therefore always lands in a
row of `ON_RESTART`.

To extend: a new state is a row in both tables and a word of `PHASES`; its effect is a method of
`agent.reconciler.installation`; what follows from its outcome is a function of `agent.core.machine`.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.contracts.device.deployments import Phase
from registry.contracts.enums import StrEnum


class State(StrEnum):
    """What the deployment is doing. The journal keeps these words."""

    IDLE = "idle"
    """Nothing was ever desired, or nothing is any more."""
    OFFERED = "offered"
    """Fetching the manifest, choosing the variant."""
    DEFERRED = "deferred"
    """This host does not want it now: a window, a lease, a metered network."""
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    """Every byte is hashed, or was while it came in."""
    VERIFIED = "verified"
    """Every byte is right; now it is asked whether to go on."""
    STAGED = "staged"
    """Held there by its policy."""
    WARMING = "warming"
    """A worker loads the candidate, checks its signature, runs and measures it, answers the golden vectors."""
    SHADOWING = "shadowing"
    """The candidate, loaded and warm, gets a share of the live requests; its answers are only compared."""
    SWITCHING = "switching"
    PROBATION = "probation"
    """It answers requests and is watched. While its policy holds it, it may fail and go back, and is not committed."""
    COMMITTED = "committed"
    """What is desired serves and has proven itself."""
    ROLLING_BACK = "rolling_back"
    """The previous version is the active one again; its worker is being started."""
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"
    """The previous version does not come up; it is tried again, slowly."""
    WAITING = "waiting"
    """A step failed and is tried again later."""
    FAILED = "failed"
    """Given up; waits for another desired state."""
    SUPERSEDED = "superseded"
    """Another version is wanted: it makes way."""
    CANCELLED = "cancelled"
    """It is not wanted any more."""
    RETIRING = "retiring"
    """The model is no longer desired: requests are refused, what runs is finished, then the worker ends."""


class DeploymentEvent(StrEnum):
    """What may happen to a deployment."""

    ASSIGNED = "assigned"
    """Something that does not serve is desired, or desired again."""
    CALLED_OFF = "called_off"
    """What served before is desired again."""
    SETTLED = "settled"
    """What is desired serves and is proven."""
    PROVE = "prove"
    """What is desired serves, but its probation was never passed."""
    WITHDRAWN = "withdrawn"
    """The model is no longer desired."""
    STEP_DONE = "step_done"
    COMPARE = "compare"
    """The candidate is warm, its policy asks for a shadow, and something serves that it can be compared with."""
    RETRY_LATER = "retry_later"
    """The step failed in a way that may pass."""
    GIVEN_UP = "given_up"
    """The step failed for good, or too often."""
    RETRY_DUE = "retry_due"
    GO = "go"
    """Neither its policy nor this host holds it up."""
    HELD = "held"
    """Its policy says: no further than `staged`."""
    DEFER = "defer"
    """This host says: not now."""
    PROBATION_PASSED = "probation_passed"
    PROBATION_FAILED = "probation_failed"
    """And there is a previous version to go back to; without one it is `given_up`."""


class Effect(StrEnum):
    """What the reconciler does on entering a state, in order."""

    CANCEL = "cancel"
    """Stop the step that runs; drop the candidate's worker."""
    RESOLVE = "resolve"
    DOWNLOAD = "download"
    VERIFY = "verify"
    ADMIT = "admit"
    """Ask the policy and this host whether it may go on: GO, HELD or DEFER follows."""
    WARM = "warm"
    SHADOW = "shadow"
    """Begin to ask the candidate a share of what the active version is asked."""
    SWITCH = "switch"
    REBIND = "rebind"
    """The same worker goes on under the rollout and the options that are desired now."""
    WATCH = "watch"
    """Begin to count errors, NaN, latency and crashes against the probation's limits."""
    UNWATCH = "unwatch"
    ROLL_BACK = "roll_back"
    """Start the previous version's worker from this disk; what fails goes on answering until it is there."""
    REPAIR = "repair"
    """The previous version again, its files pulled again where they are broken."""
    SCHEDULE_RETRY = "schedule_retry"
    TRY_ONCE = "try_once"
    """After a restart: the host may have changed while the agent was away, so what this host failed is tried once."""
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


_S, _E, _F = State, DeploymentEvent, Effect
_BEGIN = Step(_S.OFFERED, (_F.REPORT, _F.RESOLVE))
_SETTLE = Step(_S.COMMITTED, (_F.REBIND, _F.REPORT))
_PROVE = Step(_S.PROBATION, (_F.REBIND, _F.REPORT, _F.WATCH))
_RETIRE = Step(_S.RETIRING, (_F.REPORT, _F.RETIRE))
_LATER = Step(_S.WAITING, (_F.CANCEL, _F.SCHEDULE_RETRY, _F.REPORT))
_GIVE_UP = Step(_S.FAILED, (_F.CANCEL, _F.REPORT))
# What is overtaken in its probation goes on answering, so it goes on being watched: see `agent.core.machine.trial`.
_SUPERSEDE = Step(_S.SUPERSEDED, (_F.CANCEL, _F.REPORT))
_CALL_OFF = Step(_S.CANCELLED, (_F.CANCEL, _F.UNWATCH, _F.REPORT))
_DEFER = Step(_S.DEFERRED, (_F.CANCEL, _F.REPORT))
_HOLD = Step(_S.STAGED, (_F.CANCEL, _F.REPORT))
_GO = Step(_S.WARMING, (_F.REPORT, _F.WARM))
_SWITCH = Step(_S.SWITCHING, (_F.REPORT, _F.SWITCH))
_NOT_NOW: dict[DeploymentEvent, Step] = {_E.HELD: _HOLD, _E.DEFER: _DEFER}
"""Asked once more when the candidate is ready: its policy or this host may have changed their mind."""

_OVERTAKEN: dict[DeploymentEvent, Step] = {_E.ASSIGNED: _SUPERSEDE, _E.CALLED_OFF: _CALL_OFF, _E.WITHDRAWN: _CALL_OFF}
"""The newest desired state wins over whatever is under way."""
_RESTING: dict[DeploymentEvent, Step] = {
    _E.ASSIGNED: _BEGIN,
    _E.SETTLED: _SETTLE,
    _E.PROVE: _PROVE,
    _E.WITHDRAWN: _RETIRE,
}
"""Nothing is under way: any desired state can be taken up."""


def _working(done: Step, more: dict[DeploymentEvent, Step] | None = None) -> dict[DeploymentEvent, Step]:
    """A state in which a step runs: `done` is where its success leads; the rest is the same for all of them."""
    return {
        _E.STEP_DONE: done,
        **(more or {}),
        _E.RETRY_LATER: _LATER,
        _E.GIVEN_UP: _GIVE_UP,
        **_OVERTAKEN,
    }


TRANSITIONS: dict[State, dict[DeploymentEvent, Step]] = {
    _S.IDLE: _RESTING,
    _S.OFFERED: _working(Step(_S.DOWNLOADING, (_F.REPORT, _F.DOWNLOAD)), {_E.DEFER: _DEFER}),
    _S.DEFERRED: {_E.RETRY_DUE: _BEGIN, **_OVERTAKEN},
    _S.DOWNLOADING: _working(Step(_S.VERIFYING, (_F.VERIFY,))),
    _S.VERIFYING: _working(Step(_S.VERIFIED, (_F.REPORT, _F.ADMIT))),
    _S.VERIFIED: {_E.GO: _GO, _E.HELD: _HOLD, _E.DEFER: _DEFER, **_OVERTAKEN},
    _S.STAGED: {_E.GO: _GO, _E.DEFER: _DEFER, **_OVERTAKEN},
    _S.WARMING: _working(_SWITCH, {_E.COMPARE: Step(_S.SHADOWING, (_F.REPORT, _F.SHADOW)), **_NOT_NOW}),
    _S.SHADOWING: _working(_SWITCH, _NOT_NOW),
    _S.SWITCHING: _working(Step(_S.PROBATION, (_F.REPORT, _F.WATCH))),
    _S.PROBATION: {
        _E.PROBATION_PASSED: Step(_S.COMMITTED, (_F.UNWATCH, _F.REPORT)),
        _E.PROBATION_FAILED: Step(_S.ROLLING_BACK, (_F.REPORT, _F.ROLL_BACK)),
        _E.GIVEN_UP: Step(_S.FAILED, (_F.UNWATCH, _F.REPORT)),
        # Its files or this host are at fault, not the version: the previous one answers until it is deployed again.
        _E.RETRY_LATER: Step(_S.WAITING, (_F.UNWATCH, *_LATER.effects)),
        _E.PROVE: Step(_S.PROBATION, (_F.REBIND, _F.REPORT)),
        **_OVERTAKEN,
    },
    _S.COMMITTED: _RESTING,
    # Finished first, whatever is desired meanwhile: it takes moments, and that can be begun from there.
    _S.ROLLING_BACK: {
        _E.STEP_DONE: Step(_S.ROLLED_BACK, (_F.UNWATCH, _F.REPORT)),
        _E.GIVEN_UP: Step(_S.ROLLBACK_FAILED, (_F.SCHEDULE_RETRY, _F.REPORT)),
    },
    _S.ROLLED_BACK: _RESTING,
    _S.ROLLBACK_FAILED: {
        _E.STEP_DONE: Step(_S.ROLLED_BACK, (_F.CANCEL, _F.UNWATCH, _F.REPORT)),
        _E.RETRY_DUE: Step(_S.ROLLBACK_FAILED, (_F.REPAIR,)),
        _E.RETRY_LATER: Step(_S.ROLLBACK_FAILED, (_F.CANCEL, _F.SCHEDULE_RETRY)),
        _E.ASSIGNED: Step(_S.OFFERED, (_F.CANCEL, _F.REPORT, _F.RESOLVE)),
        _E.WITHDRAWN: Step(_S.RETIRING, (_F.CANCEL, _F.REPORT, _F.RETIRE)),
    },
    _S.WAITING: {_E.RETRY_DUE: _BEGIN, **_OVERTAKEN},
    _S.FAILED: {**_RESTING, _E.RETRY_DUE: _BEGIN},
    _S.SUPERSEDED: _RESTING,
    _S.CANCELLED: _RESTING,
    # A model that is desired again while its worker drains is begun when the slot is free, as a new one.
    _S.RETIRING: {_E.STEP_DONE: Step(_S.IDLE, (_F.FORGET, _F.REPORT))},
}

_AGAIN = Step(_S.OFFERED, (_F.RESOLVE,))
"""The manifest is in the cache, so choosing again is cheap, and the host may be another; a download goes on where it
stopped; workers died with the agent, and what lies on disk is not trusted."""

ON_RESTART: dict[State, Step] = {
    _S.IDLE: Step(_S.IDLE),
    _S.OFFERED: _AGAIN,
    _S.DEFERRED: _AGAIN,
    _S.DOWNLOADING: _AGAIN,
    _S.VERIFYING: _AGAIN,
    _S.VERIFIED: _AGAIN,
    _S.STAGED: _AGAIN,
    # A candidate that takes the agent down with it is counted: see `agent.core.machine.trial`.
    _S.WARMING: _AGAIN,
    _S.SHADOWING: _AGAIN,
    _S.SWITCHING: _AGAIN,
    # Its time begins again; the deaths of worker and agent are in the journal and go on counting.
    _S.PROBATION: Step(_S.PROBATION, (_F.WATCH,)),
    _S.COMMITTED: Step(_S.COMMITTED),
    _S.ROLLING_BACK: Step(_S.ROLLING_BACK, (_F.ROLL_BACK,)),
    _S.ROLLED_BACK: Step(_S.ROLLED_BACK),
    _S.ROLLBACK_FAILED: Step(_S.ROLLBACK_FAILED, (_F.REPAIR,)),
    _S.WAITING: _AGAIN,
    _S.FAILED: Step(_S.FAILED, (_F.TRY_ONCE,)),
    _S.SUPERSEDED: Step(_S.SUPERSEDED),
    _S.CANCELLED: Step(_S.CANCELLED),
    _S.RETIRING: Step(_S.RETIRING, (_F.RETIRE,)),
}

PHASES: dict[State, Phase | None] = {
    _S.IDLE: None,
    _S.OFFERED: Phase.OFFERED,
    _S.DEFERRED: Phase.DEFERRED,
    _S.DOWNLOADING: Phase.DOWNLOADING,
    _S.VERIFYING: Phase.DOWNLOADING,
    _S.VERIFIED: Phase.VERIFIED,
    _S.STAGED: Phase.STAGED,
    _S.WARMING: Phase.WARMING,
    _S.SHADOWING: Phase.SHADOWING,
    _S.SWITCHING: Phase.SWITCHING,
    _S.PROBATION: Phase.PROBATION,
    _S.COMMITTED: Phase.COMMITTED,
    _S.ROLLING_BACK: Phase.ROLLING_BACK,
    _S.ROLLED_BACK: Phase.ROLLED_BACK,
    _S.ROLLBACK_FAILED: Phase.ROLLBACK_FAILED,
    # Told as the phase whose step failed, with the reason and the time of the next try.
    _S.WAITING: None,
    _S.FAILED: Phase.FAILED,
    _S.SUPERSEDED: Phase.SUPERSEDED,
    _S.CANCELLED: Phase.CANCELLED,
    _S.RETIRING: None,
}
"""What crosses the wire; None: nothing, or as said there."""

UNDER_WAY = frozenset(state for state, row in TRANSITIONS.items() if row.get(_E.ASSIGNED) is _SUPERSEDE)
"""A deployment is being carried out: another desired state overtakes it."""
BUSY = frozenset({_S.OFFERED, _S.DOWNLOADING, _S.VERIFYING, _S.VERIFIED, _S.WARMING, _S.SWITCHING, _S.RETIRING})
"""A step is running; when none does, a refused journal write has left it undone. So it is in SHADOWING, but for the
time in which requests are compared."""


def advance(state: State, event: DeploymentEvent) -> Step:
    """The one step that `event` means in `state`.

    Raises:
        InvalidTransitionError: the table has no such edge.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise InvalidTransitionError(f"{event} means nothing in state {state}") from None
