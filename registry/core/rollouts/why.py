"""One sentence for each waiting state: why it waits, who or what unblocks it, since when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from registry.contracts.codes import DeploymentCode, ReasonCode
from registry.contracts.rollout.states import ActionState, RolloutState
from registry.contracts.rollout.views import RolloutReason
from registry.core.rollouts.actions import IN_FLIGHT, PARKED, RETRIABLE, SUCCESS, Action

_S, _R = ActionState, RolloutState

DEVICE: dict[ActionState, str] = {
    _S.OFFERED: "it has the offer in its desired state and has not begun; the device itself goes on",
    _S.DEFERRED: "this host holds it back; its own policy lets it go on",
    _S.DOWNLOADING: "it downloads; its network decides how fast",
    _S.VERIFIED: "every byte is there and checked; the device goes on by itself",
    _S.STAGED: "it is ready and is held before the switch; resume the rollout",
    _S.WARMING: "it loads the candidate and answers the golden vectors; the device goes on by itself",
    _S.SHADOWING: "the candidate gets a share of live requests to compare; time ends that",
    _S.SWITCHING: "it switches; the device goes on by itself",
    _S.PROBATION: "it serves and is watched; time ends that",
    _S.ROLLING_BACK: "it puts its previous version back; the device goes on by itself",
    _S.CONFIRMING: "it says committed; its next report has to show that it serves the digest",
    _S.COMMITTED: "done: it was seen serving it",
    _S.COMMITTED_LATE: "done, after it had been counted as silent",
    _S.REGRESSED: "it committed and then served something else; look at the device, then retry",
    _S.ROLLED_BACK: "its previous version serves again; mend the cause, then retry",
    _S.ROLLBACK_FAILED: "neither version serves: it must be repaired by hand",
    _S.FAILED: "it gave up before it served, what served before still does; mend the cause, then retry",
    _S.SUPERSEDED: "another version is wanted from this device by now",
    _S.CANCELLED: "it was withdrawn before it switched; retry brings it again",
    _S.ALREADY_CURRENT: "it served this version before",
    _S.INCOMPATIBLE: "no variant fits what it reported; publish one, or change the host, then retry",
    _S.REJECTED: "the device refused it; retry lifts its quarantine",
    _S.TIMED_OUT: "it fell silent; a late report is still believed, retry asks again",
    _S.EXCLUDED: "it is offline; when it is back it gets the version in the tail wave",
    _S.DECOMMISSIONED: "it was removed from the registry",
}
"""All but `planned`, which waits for the rollout."""
HELD_BY: dict[str, str] = {
    DeploymentCode.MAINTENANCE_WINDOW: "its maintenance window is closed; the window opens it",
    DeploymentCode.LEASE: "a local program asked for a delay; it, or the end of its lease, lets it go on",
    DeploymentCode.METERED: "it is on a metered network; another network lets it go on",
    DeploymentCode.HELD: "the rollout holds it before the switch; resume the rollout",
}
_HELD_IN_PROBATION = (
    "it serves and is watched, and is not committed while the rollout is paused; resume the rollout, or roll it back"
)

ROLLOUT: dict[RolloutState, str] = {
    _R.DRAFT: "somebody has to submit it",
    _R.PLANNING: "the registry works out who gets what; it goes on by itself",
    _R.AWAITING_APPROVAL: "somebody has to approve the plan",
    _R.DENIED: "it was denied; change it and submit it again",
    _R.SCHEDULED: "its time has to come",
    _R.RUNNING: "it goes on by itself",
    _R.PAUSED: "somebody has to decide",
    _R.ABORTING: "devices that had switched end their probation; timeouts end it at the latest",
    _R.EXPIRING: "devices that had switched end their probation; timeouts end it at the latest",
    _R.ROLLING_BACK: "devices return to their last good version; its deadline ends it at the latest",
}


@dataclass(frozen=True)
class Standing:
    """What else is known of a device now."""

    due: datetime | None = None
    """When it counts as silent."""
    offline_since: datetime | None = None
    taken: str = ""
    """By whom, when another version is wanted from it since: `rollout kiosks-8 of 3.0.0 took it`."""
    back_to: str = ""
    """It was told to go back, to this version."""
    retry_at: datetime | None = None
    """It failed, and is planned to be tried again by itself, not before this."""
    tries: int = 0
    """That were made or planned so."""
    restored: datetime | None = None
    """When the registry's database was put back, if the device still follows the state of before."""


def why_device(
    action: Action, rollout: RolloutState, reason: RolloutReason, wave_started: bool, standing: Standing | None = None
) -> str:
    """Why this device is where it is.

    Args:
        rollout, reason: Of its rollout now.
        wave_started: Its wave has begun.
        standing: Nothing is known but the action: None.
    """
    known = standing or Standing()
    text = _planned(rollout, reason, wave_started) if action.state is _S.PLANNED else _told(action, known)
    if action.state is _S.PLANNED and known.retry_at is not None:
        text = f"it failed ({action.code}); its retry {known.tries} is at {_when(known.retry_at)} by itself; {text}"
    elif known.tries:
        text += f"; retries by itself so far: {known.tries}"
    if known.back_to and action.state in SUCCESS | {_S.ALREADY_CURRENT}:
        text = f"it is back on {known.back_to}"
    elif known.back_to and action.state is not _S.SUPERSEDED:
        text = f"on its way back to {known.back_to}: {text}"
    if action.state in PARKED | IN_FLIGHT:
        if known.offline_since is not None:
            text += f"; it is offline since {_when(known.offline_since)}"
        if known.restored is not None:
            text += (
                f"; the registry was put back from a backup at {_when(known.restored)}, and the device still follows "
                "the state of before: it asks the registry over HTTP as soon as it hears of it"
            )
        if known.due is not None:
            text += f"; unless it reports, it counts as silent at {_when(known.due)}"
    elif known.taken and action.state in SUCCESS:
        text += f"; {known.taken} since"
    return f"{text}; since {_when(action.since)}"


def _told(action: Action, known: Standing) -> str:
    text = DEVICE[action.state]
    if action.state is _S.PROBATION and action.code == DeploymentCode.HELD:
        text = _HELD_IN_PROBATION
    elif action.state in (_S.DEFERRED, _S.STAGED):
        text = HELD_BY.get(action.code, text)
    elif known.taken and action.state in RETRIABLE:
        text = f"it was {action.state}; then {known.taken}, so a retry leaves it alone"
    if action.until is not None:
        text += f", by {_when(action.until)} at the latest"
    if action.state in (_S.TIMED_OUT, _S.FAILED) and action.failed_in is not None:
        how = "silent" if action.state is _S.TIMED_OUT else "failed"
        text = f"{how} in {action.failed_in}: {text}"
    if action.state is _S.SUPERSEDED and action.message:
        return f"{text}: {action.message}"
    if action.code and action.code not in HELD_BY:
        text += f" ({action.code}{': ' + action.message if action.message else ''})"
    return text


def _planned(rollout: RolloutState, reason: RolloutReason, wave_started: bool) -> str:
    if rollout is not _R.RUNNING:
        return f"its rollout is {rollout} ({reason.text or reason.code}): {ROLLOUT.get(rollout, 'it is over')}"
    if not wave_started:
        return f"an earlier wave has to pass first ({reason.text or reason.code})"
    return "its turn has to come; the rollout's rate decides"


def _when(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


STOPPED_FOR = frozenset(
    {
        ReasonCode.FAILED_BUDGET,
        ReasonCode.UNKNOWN_BUDGET,
        ReasonCode.TOO_FEW_COMMITTED,
        ReasonCode.UNAVAILABLE_BUDGET,
        ReasonCode.REGRESSED,
        ReasonCode.HEALTH,
        ReasonCode.ACCURACY,
        ReasonCode.SHADOW,
        ReasonCode.INCONCLUSIVE,
        ReasonCode.WAVE_DEADLINE,
        ReasonCode.YANKED,
        ReasonCode.PLAN_FAILED,
    }
)
"""What speaks against the version or its rollout, not only of where the rollout is."""


def cause_of_rollback(reason: ReasonCode, text: str, by: str, note: str) -> tuple[str, str]:
    """What a rollout goes back for: code and sentence.

    Args:
        reason: Why the rollout was where it was before a person's command, or what its gate found.
        text: The sentence of that reason.
        by: Who commanded it; empty: its gate did.
        note: What that person said.
    """
    if not by:
        return reason.value, text
    said = f"rollback by {by}" + (f": {note}" if note else "")
    if reason in STOPPED_FOR:
        return reason.value, f"{text or reason.value}; {said}"
    return ReasonCode.BY_COMMAND.value, said
