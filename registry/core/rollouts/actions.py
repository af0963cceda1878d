"""THE table of one device in a rollout: what its reports make of its action.

A report counts only for the deployment it speaks of: (rollout, attempt, manifest). A repeat changes nothing; one
from before what is known is dropped, unless it leads further (a device's clock may have been set back). Final states
absorb every report, but for the edges that LATE and REGRESSION name. Nothing is success before the device was seen
serving the digest. What the registry itself decides (offer, time out, withdraw) goes through `set_by_registry`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import DeploymentPolicy, DeploymentProgress, Phase
from registry.contracts.rollout.spec import Timeouts
from registry.contracts.rollout.states import ActionState
from registry.contracts.wire import Digest

_S = ActionState

OF_PHASE: dict[Phase, ActionState] = {
    **{phase: ActionState(phase.value) for phase in Phase if phase is not Phase.COMMITTED},
    Phase.COMMITTED: _S.CONFIRMING,
}
"""The action's state for what a device says. Its word alone does not make a commit."""

ORDER = (
    _S.OFFERED, _S.DEFERRED, _S.DOWNLOADING, _S.VERIFIED, _S.STAGED, _S.WARMING, _S.SHADOWING, _S.SWITCHING,
    _S.PROBATION, _S.ROLLING_BACK, _S.CONFIRMING,
)  # fmt: skip
"""How far a device is. All of these have a timeout."""
IN_FLIGHT = frozenset(ORDER)
BEFORE_SWITCH = frozenset(ORDER[: ORDER.index(_S.SWITCHING)])
PARKED = frozenset({_S.PLANNED, _S.EXCLUDED})
"""Waiting for the registry to offer it."""
FINAL = frozenset(ActionState) - IN_FLIGHT - PARKED
SUCCESS = frozenset({_S.COMMITTED, _S.COMMITTED_LATE})
FAILURE = frozenset({_S.FAILED, _S.ROLLED_BACK, _S.ROLLBACK_FAILED, _S.REJECTED, _S.REGRESSED})
RETRIABLE = FAILURE | {_S.TIMED_OUT, _S.CANCELLED, _S.EXCLUDED, _S.INCOMPATIBLE}
"""What `retry` plans again; of the incompatible, those that fit by now."""
OUT = frozenset({_S.SUPERSEDED, _S.CANCELLED, _S.ALREADY_CURRENT, _S.INCOMPATIBLE, _S.DECOMMISSIONED})
"""In no denominator: neither did they fail nor can they succeed."""
REQUEST_ENDS = frozenset({_S.FAILED, _S.REJECTED, _S.ROLLED_BACK, _S.ROLLBACK_FAILED})
"""Their desired state still names the new version; withdrawing ends that too, or an agent that starts again tries it
again. The state stays as it is. (So it is with a device that was timed out before it was known to have switched.)"""
_MAY_GET_IT = SUCCESS | IN_FLIGHT | FAILURE | {_S.TIMED_OUT}
_IS_BACK = SUCCESS | {_S.ALREADY_CURRENT, _S.SUPERSEDED, _S.DECOMMISSIONED}
LOST = frozenset({_S.ROLLBACK_FAILED})
"""Devices that count against `max_unavailable` as those IN_FLIGHT do: neither version serves."""
HOLDS_SLOT_WHILE_AWAY = frozenset({_S.FAILED, _S.ROLLED_BACK, _S.REJECTED, _S.REGRESSED, _S.TIMED_OUT})
"""These count too while the device is offline or serves nothing: a failed host that is not back frees no slot."""

MAY_HOLD = IN_FLIGHT | REQUEST_ENDS | {_S.TIMED_OUT}
"""Their desired state names the new version, and they have not committed it: a pause tells them to hold."""
WAITS_HELD = frozenset({_S.STAGED, _S.PROBATION})
"""Where a device that was told to hold comes to rest: it waits for a person, and is not silent."""

LATE: dict[ActionState, frozenset[ActionState]] = {
    _S.TIMED_OUT: frozenset({_S.CONFIRMING, _S.FAILED, _S.ROLLED_BACK, _S.ROLLBACK_FAILED}),
}
"""Final reports that are believed although they come too late; a commit among them is kept apart."""
REGRESSION: dict[ActionState, frozenset[ActionState]] = {
    _S.COMMITTED: frozenset({_S.REGRESSED}),
    _S.COMMITTED_LATE: frozenset({_S.REGRESSED}),
    _S.REGRESSED: frozenset({_S.COMMITTED}),
}
"""What a heartbeat with another digest, or again with the right one, makes of a commit."""
BY_REGISTRY: dict[ActionState, frozenset[ActionState]] = {
    _S.OFFERED: PARKED,
    _S.PLANNED: RETRIABLE | PARKED,
    _S.ALREADY_CURRENT: PARKED,
    _S.INCOMPATIBLE: PARKED,
    _S.TIMED_OUT: IN_FLIGHT,
    _S.FAILED: PARKED | {_S.OFFERED},
    _S.EXCLUDED: frozenset({_S.PLANNED, _S.OFFERED}),
    _S.CANCELLED: PARKED | BEFORE_SWITCH,
    _S.SUPERSEDED: PARKED | IN_FLIGHT,
    _S.DECOMMISSIONED: PARKED | IN_FLIGHT,
}
"""What only the registry sets, and from which states. From elsewhere it changes nothing: the device was faster."""
_REFUSALS = frozenset({DeploymentCode.QUARANTINED, DeploymentCode.DESIRED_EXPIRED})


@dataclass(frozen=True)
class Action:
    """One device in one generation of a rollout, as it is stored."""

    rollout: str
    attempt: int
    target: Digest | None
    """The manifest that is to serve. None: a rollback to nothing, the model is to be gone."""
    state: ActionState
    since: datetime
    """When the registry learned of the state."""
    phase: Phase | None = None
    phase_since: datetime | None = None
    """By the device's clock."""
    failed_in: Phase | None = None
    code: str = ""
    message: str = ""
    until: datetime | None = None
    """When the device said that its waiting ends by itself."""
    late: bool = False
    """It came to its end after it had been timed out."""


@dataclass(frozen=True)
class Report:
    """What one message of the device says of the slot: its progress, what serves, or both."""

    progress: DeploymentProgress | None = None
    serving: Digest | None = None
    """The manifest whose worker answers now."""
    steady: bool = False
    """`serving` is known and at rest: the message was a reported state, and the slot neither changes nor recovers."""
    at: datetime | None = None
    """By the device's clock; None: this message does not tell."""
    wanted: bool = True
    """The slot's desired manifest is still this action's: otherwise another digest is no regression."""


def take(action: Action, report: Report, now: datetime) -> Action | None:
    """The action after a report; None: it changes nothing, so nothing is written.

    Args:
        action: As stored.
        report: Of this device and model.
        now: The registry's clock.
    """
    after = _progressed(action, report, now)
    after = _confirmed(after, report, now)
    return after if after != action else None


def _progressed(action: Action, report: Report, now: datetime) -> Action:
    progress = report.progress
    if progress is None or not _speaks_of(action, progress):
        return action
    state = OF_PHASE[progress.phase]
    if state is _S.FAILED and progress.code in _REFUSALS:
        state = _S.REJECTED
    if action.state in FINAL:
        if state not in LATE.get(action.state, frozenset()) or (state is _S.CONFIRMING and action.late):
            return action
        if state is _S.CONFIRMING:  # claimed, not yet seen: it stays timed out until it is
            return replace(action, late=True, phase=progress.phase, phase_since=progress.since)
    elif _is_stale(action, progress, report.at, state):
        return action
    return replace(
        action,
        state=state,
        since=now if state is not action.state else action.since,
        phase=progress.phase,
        phase_since=progress.since,
        failed_in=progress.failed_in,
        code=progress.code,
        message=progress.message,
        until=progress.until,
        late=action.state is _S.TIMED_OUT,
    )


def _speaks_of(action: Action, progress: DeploymentProgress) -> bool:
    named = (progress.rollout, progress.attempt, progress.manifest)
    return named == (action.rollout, action.attempt, action.target)


def _is_stale(action: Action, progress: DeploymentProgress, at: datetime | None, state: ActionState) -> bool:
    """From before what is known, and leads no further: a second channel, or the outbox, delivered it late."""
    if action.phase_since is None or progress.since >= action.phase_since or action.state not in IN_FLIGHT:
        return False
    if state is action.state and at is not None and at >= action.phase_since:
        return False  # more of the same phase: an event is written a little after the phase that it tells of began
    return state in IN_FLIGHT and ORDER.index(state) <= ORDER.index(action.state)


def _confirmed(action: Action, report: Report, now: datetime) -> Action:
    """What is seen serving decides: the commit, and whether it lasts."""
    if not report.steady or _is_from_before(action, report):
        return action
    serves = report.serving == action.target
    if serves and action.state is _S.CONFIRMING:
        return _moved(action, _S.COMMITTED, now)
    if serves and action.state is _S.TIMED_OUT and action.late:
        return _moved(action, _S.COMMITTED_LATE, now)
    if serves and action.state is _S.REGRESSED:
        return _moved(action, _S.COMMITTED, now)
    if not serves and report.wanted and action.state in SUCCESS:
        return replace(_moved(action, _S.REGRESSED, now), message=f"serves {report.serving or 'nothing'} now")
    if serves and action.target is None and action.state in IN_FLIGHT:  # gone, as wanted: no device reports on nothing
        return _moved(action, _S.COMMITTED, now)
    settled = report.progress is None or report.progress.phase is Phase.COMMITTED
    if serves and settled and action.state is _S.OFFERED:  # it serves it, and owes that to an earlier deployment
        return _moved(action, _S.ALREADY_CURRENT, now)
    return action


def _is_from_before(action: Action, report: Report) -> bool:
    """What serves was seen before the phase that is known; not so when the message itself tells of that phase: then
    the device's clock was set back since."""
    if report.at is None or action.phase_since is None or report.at >= action.phase_since:
        return False
    told = report.progress
    return told is None or not _speaks_of(action, told) or told.phase is not action.phase


def _moved(action: Action, state: ActionState, now: datetime) -> Action:
    return replace(action, state=state, since=now, code="", message="", until=None)


def set_by_registry(
    action: Action, state: ActionState, now: datetime, code: str = "", message: str = ""
) -> Action | None:
    """The action after a decision of the registry; None: it is beyond that already, and stays as it is."""
    if action.state is state or action.state not in BY_REGISTRY.get(state, frozenset()):
        return None
    if state is _S.TIMED_OUT and action.code not in ("", DeploymentCode.HELD):  # it said what it waits for
        code, message = action.code, action.message
    fresh = state in (_S.PLANNED, _S.OFFERED)
    return replace(
        action,
        state=state,
        since=now,
        code=code,
        message=message,
        until=None,
        failed_in=action.phase or Phase.OFFERED if state is _S.TIMED_OUT else None,
        phase=None if fresh else action.phase,
        phase_since=None if fresh else action.phase_since,
        late=state is _S.TIMED_OUT and action.state is _S.CONFIRMING,  # it has claimed its commit already
    )


def goes_back(state: ActionState, returning: bool) -> bool:
    """Whether a rollback tells this device to return: it has the new version, or its desired state still names it.

    Args:
        returning: The action is of an earlier rollback, that was aborted or did not bring it back.
    """
    return state not in _IS_BACK if returning else state in _MAY_GET_IT


def due(
    state: ActionState, since: datetime, timeouts: Timeouts, policy: DeploymentPolicy, *, held: bool = False
) -> datetime | None:
    """When a device in `state` counts as unknown; None: the state is no waiting for the device.

    Args:
        since: When the registry learned of the state, or told a device that was held to go on.
        held: Its desired state says `hold`.
    """
    if state not in IN_FLIGHT or (held and state in WAITS_HELD):
        return None
    seconds: float = getattr(timeouts, state.value)
    if state is _S.PROBATION:
        seconds += policy.probation_s
    if state is _S.SHADOWING and policy.shadow is not None:
        seconds += policy.shadow.duration_s
    return since + timedelta(seconds=seconds)
