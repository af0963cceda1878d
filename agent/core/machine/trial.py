"""What has still to prove itself: judged by what was counted, kept or taken back, and a rollback seen through. Pure.

A version that was superseded in its probation goes on answering until the next one is there, or for ever when that
fails: so it goes on being watched, beside whatever deployment is under way, and is kept or taken back all the same.

INVARIANT: nothing here needs the network or the registry. A death is written down with what it leads to, and an end
of the agent at its next start, so that a version which takes it down is counted across restarts; not a cut of power.
INVARIANT: what is held does not pass, however long: also when another version is desired by then, or the agent starts
again, and when the registry never comes back (it serves, is watched, and says so).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from agent.core.backoff import BROKEN, REPAIR_S, ROLLBACK_TRIES, VERIFIED
from agent.core.lifecycle import DeploymentEvent, Effect, State
from agent.core.machine.decision import (
    Decision,
    PublishEvent,
    RetryStart,
    Situation,
    Upkeep,
    move,
    policy_of,
    quarantined,
    step_failed,
)
from agent.core.probation import Counts, Looked, ProbationVerdict, judge
from agent.core.slots import SlotRecord, Trial
from agent.errors import AgentError, PermanentError, TransientError
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import Phase
from registry.contracts.device.messages import Fault

LOADED = frozenset({State.WARMING, State.SHADOWING, State.SWITCHING})
"""A worker of the candidate is there: if the agent dies now, the candidate may be why."""
ROLLS_BACK = frozenset({State.ROLLING_BACK, State.ROLLBACK_FAILED})
_NOTHING_TO_WATCH = frozenset({State.SWITCHING, State.RETIRING})
"""What is counted may be another version's by now, or is not desired any more."""
_NOT_ITS_FAULT = BROKEN | {
    *(DeploymentCode.VARIANT_UNFIT, DeploymentCode.BACKEND_UNAVAILABLE),
    *(DeploymentCode.METADATA_REFUSED, DeploymentCode.MANIFEST_UNTRUSTED, DeploymentCode.REGISTRY_UNREACHABLE),
}
"""Its files or their signed metadata were damaged or cannot be had, or this host has changed."""
_HELD = "the rollout is paused: it serves and is watched, and is not committed before that ends"


def watches(record: SlotRecord) -> bool:
    """Is there anything to judge?"""
    return record.on_trial() and record.state not in _NOTHING_TO_WATCH


def agent_started(record: SlotRecord, at: Situation) -> Decision:
    """What ended with the agent is counted before anything is started: a version that takes the agent down with it must
    not do so for ever. What a cut of power ended, or an order, is not counted."""
    same_boot, changes = record.boot == at.boot, dict[str, Any]()
    if record.state in LOADED and same_boot:
        changes["attempts"] = record.attempts + 1
    if watches(record) and record.trial is not None:
        ends = record.trial.ends + (same_boot and not record.trial.stopped)
        changes["trial"] = record.trial.model_copy(update={"ends": ends, "stopped": False})
        changes["boot"] = at.boot
    return Decision(record.model_copy(update=changes))


def agent_stops(record: SlotRecord, _: Situation) -> Decision | None:
    """It ends in order: its next start counts nothing."""
    return _on(record, stopped=True) if record.on_trial() else None


def probation_begins(record: SlotRecord, at: Situation) -> Decision:
    """Without a trial it is desired again after all, when its probation was not over."""
    return assess(record.model_copy(update={"trial": record.trial or Trial()}), at)


def worker_died(record: SlotRecord, at: Situation) -> Decision | None:
    """The worker on trial died, or could not be started again."""
    if not watches(record) or record.trial is None:
        return None
    return assess(_on(record, deaths=record.trial.deaths + 1).record, at)


def assess(record: SlotRecord, at: Situation) -> Decision:
    """Judges what was counted so far, where there is anything to judge."""
    if not watches(record):
        return Decision(record)
    record = _as_held(record, at)
    trial, policy = record.trial or Trial(), policy_of(record)
    over = (
        not trial.held
        and at.watched_since is not None
        and at.monotonic >= at.watched_since + policy.probation_s
        and at.answers(record.active)
    )
    verdict = judge(policy.probation, _counts(record, trial, at), over=over)
    if verdict is None:
        return Decision(record)
    if verdict.code:
        return _take_back(record, at, verdict)
    changes: dict[str, Any] = {"proven": True, "trial": None, "looked": at.tally.seen()}
    if record.state is State.PROBATION:
        return move(
            record, at, DeploymentEvent.PROBATION_PASSED, fault=Fault(code="", message=verdict.message), **changes
        )
    return Decision(record.model_copy(update=changes), (Effect.UNWATCH,))


def came_up(record: SlotRecord, at: Situation) -> Decision | None:
    """A worker of the active place answers: a rollback is done."""
    if record.state not in ROLLS_BACK:
        return None
    bad = record.quarantine[-1] if record.quarantine else None
    fault = Fault(code=bad.code, message=bad.message) if bad is not None else None
    return move(record, at, DeploymentEvent.STEP_DONE, attempts=0, fault=fault, failed_in=Phase.PROBATION)


def start_failed(record: SlotRecord, at: Situation, error: AgentError) -> Decision:
    """A worker of the active place could not be started."""
    state, its_fault = record.state, error.code not in _NOT_ITS_FAULT
    if state is State.PROBATION and not its_fault:
        # Deployed again, without quarantine; the previous version answers meanwhile.
        return step_failed(record, at, TransientError(error.code, error.message), **_back_to_previous(record))
    died = worker_died(record, at) if its_fault else None
    if died is not None:
        return _start_again(died, at, error) if watches(died.record) else died
    if state is State.ROLLING_BACK:
        broken = isinstance(error, PermanentError) or error.code in BROKEN
        if broken or record.attempts + 1 >= ROLLBACK_TRIES:
            return _not_back(record, at, error, DeploymentEvent.GIVEN_UP, failed_in=Phase.ROLLING_BACK)
        record = record.model_copy(update={"attempts": record.attempts + 1})
    if state is State.ROLLBACK_FAILED:
        return repair_failed(record, at, error)
    return _start_again(Decision(record), at, error)


def repair_failed(record: SlotRecord, at: Situation, error: AgentError) -> Decision:
    """The previous version is not back this time either."""
    return _not_back(record, at, error, DeploymentEvent.RETRY_LATER)


def known_in(looked: Looked | None) -> int:
    """Bits of the kinds that the version before answered."""
    return looked.known() if looked is not None else 0


def _on(record: SlotRecord, **changes: Any) -> Decision:
    return Decision(record.model_copy(update={"trial": (record.trial or Trial()).model_copy(update=changes)}))


def _as_held(record: SlotRecord, at: Situation) -> SlotRecord:
    """What its policy says now; a version that was overtaken keeps what it was told last."""
    policy = policy_of(record)
    told = record.fault is not None and record.fault.code == DeploymentCode.HELD
    trial, held = record.trial or Trial(), policy.hold
    if record.state is not State.PROBATION or (trial.held, told) == (held, held):
        return record
    until = None if held else (record.since or at.now) + timedelta(seconds=policy.probation_s)
    fault = Fault(code=DeploymentCode.HELD, message=_HELD) if held else None
    return record.model_copy(update={"trial": trial.model_copy(update={"held": held}), "fault": fault, "until": until})


def _take_back(record: SlotRecord, at: Situation, verdict: ProbationVerdict) -> Decision:
    """Quarantines what serves and goes back. Without a previous version it goes on answering as well as it can: a
    device that answers badly is worth more than one that does not answer."""
    bad, previous = record.active, record.previous
    changes = {**_back_to_previous(record), "active": previous or bad}
    if bad is not None:
        changes["quarantine"] = quarantined(record, at, bad, verdict.code, verdict.message)
    if record.state is State.PROBATION:
        event = DeploymentEvent.PROBATION_FAILED if previous is not None else DeploymentEvent.GIVEN_UP
        fault = Fault(code=verdict.code, message=verdict.message[:2000])
        return move(record, at, event, attempts=0, fault=fault, failed_in=Phase.PROBATION, **changes).then(
            Upkeep.REVIVE
        )
    # It was superseded, so this is no step of the deployment that the slot is about.
    text = f"{bad.version if bad is not None else 'what served'} fails its probation: {verdict.message}"
    told = PublishEvent("taken_back", text, verdict.code)
    room = (Upkeep.MAKE_ROOM,) if previous is not None and bad != previous else ()
    return Decision(record.model_copy(update=changes), (Effect.UNWATCH, told, *room, Upkeep.REVIVE))


def _start_again(decision: Decision, at: Situation, error: AgentError) -> Decision:
    """Tried again, unless it was verified that it cannot be (`VERIFIED`): then it has to be deployed again, chosen by
    the facts of today."""
    if error.code not in VERIFIED:
        return decision.then(RetryStart(error))
    record = decision.record
    back = _back_to_previous(record) if record.on_trial() else {"active": None, "proven": False}
    told = PublishEvent("lost", error.message, error.code)
    return replace(decision, record=record.model_copy(update=back)).then(told)


def _not_back(record: SlotRecord, at: Situation, error: AgentError, event: DeploymentEvent, **changes: Any) -> Decision:
    """Why the previous version is not back, and when it is tried again."""
    attempts = record.attempts + 1
    text = f"the previous version does not come up: {error.code}: {error.message}"
    fault = Fault(code=DeploymentCode.ROLLBACK_FAILED, message=text[:2000], attempts=attempts)
    until = at.now + timedelta(seconds=REPAIR_S)
    moved = move(record, at, event, attempts=attempts, fault=fault, until=until, **changes)
    return replace(moved, retry_s=REPAIR_S).then(Upkeep.GIVE_UP)


def _back_to_previous(record: SlotRecord) -> dict[str, Any]:
    """The last committed version is what should answer again; nothing, where there is none."""
    previous = record.previous
    return {"active": previous, "proven": previous is not None, "previous": None, "trial": None}


def _counts(record: SlotRecord, trial: Trial, at: Situation) -> Counts:
    tally = at.tally
    golden = record.active is not None and record.active.golden is not None
    return Counts(
        answered=tally.answered,
        failed=tally.failed(),
        unexpected=tuple(tally.unexpected),
        before=trial.before,
        comparable=trial.before is not None or record.previous is not None or golden,
        crashes=trial.deaths,
        ends=trial.ends,
        given_up=at.crash.message if at.given_up and at.crash is not None else "",
        run=tally.run.view(),
        before_us=trial.before_us,
    )
