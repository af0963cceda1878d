"""From a desired version to one that answers: what a new desired state means for a slot, and what follows from each
outcome of a step, from the clock and the host.

Pure. What the local policy of this host says comes in as an argument; None: it lets the deployment go on.
"""

from __future__ import annotations

from typing import Any

from agent.core.backoff import DEPLOYMENT, JUDGED, OF_HOST, exhausted
from agent.core.lifecycle import BUSY, ON_RESTART, UNDER_WAY, DeploymentEvent, Effect, State
from agent.core.local_policy import Wait
from agent.core.machine.decision import (
    Command,
    Decision,
    PublishEvent,
    Situation,
    Upkeep,
    chosen,
    given_up,
    move,
    policy_of,
    quarantined,
    step_failed,
)
from agent.core.machine.trial import LOADED, ROLLS_BACK, came_up
from agent.core.probation import ProbationVerdict, p99
from agent.core.slots import Choice, SlotRecord, Trial, identity
from agent.errors import PermanentError
from registry.contracts.catalogue.manifest import Parity
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import ShadowFigures, ShadowPolicy
from registry.contracts.device.messages import DesiredModel, Fault

_FINISHES_FIRST = frozenset({State.RETIRING, State.ROLLING_BACK})
_ENDED = frozenset({State.FAILED, State.ROLLED_BACK, State.ROLLBACK_FAILED})
"""What has come to its end badly is not begun again because another part of the document has changed."""
_OVERTAKES = frozenset({DeploymentEvent.ASSIGNED, DeploymentEvent.CALLED_OFF, DeploymentEvent.WITHDRAWN})


def desired_changed(
    record: SlotRecord, at: Situation, desired: DesiredModel | None, generation: int
) -> Decision | None:
    """Asked again after each decision that has commands: what is overtaken ends under its own name first.

    Args:
        desired: None: the model is not desired.
        generation: Of the document that it came with.
    """
    state = record.state
    if state in _FINISHES_FIRST:
        return None
    event = _event(record, desired)
    if event is None:  # Nothing moves; what is new in it (its policy) is looked at where it matters.
        if (record.desired, record.generation) == (desired, generation):
            return None
        return Decision(record.model_copy(update={"desired": desired, "generation": generation}))
    if state in UNDER_WAY and event in _OVERTAKES:
        return move(record, at, event, candidate=None, fault=None)
    changes: dict[str, Any] = {"desired": desired, "generation": generation, "candidate": None}
    changes.update(fault=None, failed_in=None)
    if desired is None:
        return move(record, at, event, **changes)
    changes.update(attempts=0, gap_s=None, shadow=None)
    if event is DeploymentEvent.ASSIGNED:
        changes["offered_at"] = at.now
    elif record.active is not None:
        changes["active"] = record.active.bound_to(desired)
    decision = move(record, at, event, **changes)
    return Decision(decision.record, (Upkeep.FORGIVE, *decision.commands))


def _event(record: SlotRecord, desired: DesiredModel | None) -> DeploymentEvent | None:
    if desired is None:
        return DeploymentEvent.WITHDRAWN
    state = record.state
    same = record.desired is not None and identity(record.desired) == identity(desired)
    if state is not State.ROLLBACK_FAILED and record.active is not None and record.active.is_what(desired):
        return _of_what_serves(record, desired, same=same)
    carried_out = state in _ENDED or (state in UNDER_WAY and state is not State.PROBATION)
    return None if same and carried_out else DeploymentEvent.ASSIGNED


def _of_what_serves(record: SlotRecord, desired: DesiredModel, *, same: bool) -> DeploymentEvent | None:
    state = record.state
    if state in (State.COMMITTED, State.PROBATION):
        if same and record.active is not None and record.active.record_results == desired.record_results:
            return None
        return DeploymentEvent.SETTLED if state is State.COMMITTED else DeploymentEvent.PROVE
    if state in UNDER_WAY:
        return DeploymentEvent.CALLED_OFF
    if state is State.FAILED and same:  # The first version, which failed its probation and has none to go back to.
        return None
    return DeploymentEvent.SETTLED if record.proven else DeploymentEvent.PROVE


def judge_shadow(policy: ShadowPolicy, figures: ShadowFigures, *, over: bool) -> ProbationVerdict | None:
    """None: it goes on.

    A request that the candidate failed where the active version answered is one that it does not agree on.

    Args:
        policy: How many requests are needed, and which share of them must agree.
        figures: What comparing showed so far.
        over: Its time is over: it is judged by what there is, and too little is no reason to fail.
    """
    asked = figures.compared + figures.errors
    enough = asked >= policy.min_requests
    if not enough and not over:
        return None
    agreed = figures.compared * (figures.agreement or 0.0)
    share = agreed / asked if asked else 0.0
    text = f"shadow: {share:.1%} of {asked} requests agree, {figures.errors} failed, {figures.skipped} were skipped"
    if not enough:
        return ProbationVerdict("", f"{text}; too few to judge_shadow, which takes {policy.min_requests}")
    if policy.min_agreement is not None and share < policy.min_agreement - 1e-9:
        return ProbationVerdict(DeploymentCode.SHADOW_DISAGREES, f"{text}; {policy.min_agreement:.1%} must")
    return ProbationVerdict("", text)


_LOOKED_AT: dict[State, Command] = {
    State.STAGED: Effect.ADMIT,
    State.DEFERRED: Upkeep.RECONSIDER,
    State.SHADOWING: Upkeep.COMPARE,
}
"""Where something is asked at every look."""
RESTS = frozenset({State.IDLE, State.PROBATION, State.COMMITTED, State.ROLLED_BACK, State.SUPERSEDED, State.CANCELLED})
"""Where nothing is ever `due`: most slots at most times, so it need not be asked."""


def restarted(record: SlotRecord, at: Situation) -> Decision:
    """What the journal says is under way is taken up: at a start, and when a refused write has left it undone."""
    if record.state in LOADED and exhausted(DEPLOYMENT, record.attempts, DeploymentCode.WORKER_CRASHED):
        text = f"the agent or its worker ended {record.attempts} times while it was loaded"
        fault = Fault(code=DeploymentCode.ATTEMPTS_EXHAUSTED, message=text, attempts=record.attempts)
        return given_up(record, at, fault)
    step = ON_RESTART[record.state]
    return Decision(record.model_copy(update={"state": step.to}), step.effects)


def tried_once(record: SlotRecord, at: Situation) -> Decision | None:
    """After a restart. Not what was judged: no restart makes a bad version good."""
    if record.fault is None or record.fault.code in JUDGED:
        return None
    return move(record, at, DeploymentEvent.RETRY_DUE)


def host_changed(record: SlotRecord, at: Situation) -> Decision | None:
    """This host is another than it was: what did not run here may run now."""
    if record.state is not State.FAILED or record.fault is None or record.fault.code not in OF_HOST:
        return None
    return move(record, at, DeploymentEvent.RETRY_DUE, fault=None, attempts=0)


def is_stuck(record: SlotRecord, at: Situation) -> bool:
    """In a state that works, with nothing that does: the journal refused to write the next one down."""
    if at.step_runs:
        return False
    return record.state in BUSY or (record.state is State.SHADOWING and not at.comparing)


def waits_for_retry(record: SlotRecord, at: Situation) -> bool:
    """Nothing runs, and the next try is what comes."""
    if at.step_runs or at.retry_pending:
        return False
    return record.state is State.WAITING or (record.state is State.ROLLBACK_FAILED and at.given_up)


def due(record: SlotRecord, at: Situation) -> Decision | None:
    """What the clock, a refused write or a worker that answers by now leads to. Asked at every look."""
    state = record.state
    if is_stuck(record, at):
        if state is State.SWITCHING and at.answers(record.candidate):
            return Decision(record, (Effect.SWITCH,))
        again = restarted(record, at)
        return Decision(again.record, (Effect.CANCEL, *again.commands))
    if waits_for_retry(record, at):
        return move(record, at, DeploymentEvent.RETRY_DUE, **({"fault": None} if state is State.WAITING else {}))
    if state in ROLLS_BACK and at.answers(record.active):
        return came_up(record, at)
    if state in _LOOKED_AT:
        return Decision(record, (_LOOKED_AT[state],))
    if state is State.FAILED and record.fault is not None and record.fault.code == DeploymentCode.DESIRED_EXPIRED:
        # It has not expired after all: the clock was wrong, and has been set.
        return None if at.desired_expired else move(record, at, DeploymentEvent.RETRY_DUE)
    return None


def resolved(record: SlotRecord, at: Situation, choice: Choice, wait: Wait | None) -> Decision:
    """A variant was chosen. `wait`: of a download."""
    bad = record.barred(choice, record.desired.attempt if record.desired is not None else 0)
    if bad is not None:
        text = f"{choice.version} failed on this device ({bad.code}: {bad.message}): only another attempt brings it"
        return step_failed(record, at, PermanentError(DeploymentCode.QUARANTINED, text), candidate=choice)
    before = record.candidate
    same = before is not None and before.variant_digest == choice.variant_digest
    changes: dict[str, Any] = {"candidate": choice, "shadow": record.shadow if same else None}
    if wait is not None:
        decision = move(record, at, DeploymentEvent.DEFER, **changes, **_waiting(wait))
    else:
        decision = move(record, at, DeploymentEvent.STEP_DONE, **changes)
    if not choice.degraded:
        return decision
    text = f"variant {choice.variant.name} runs on the CPU, and an accelerator of this host lies idle"
    return Decision(decision.record, (PublishEvent("degraded", text), *decision.commands))


def step_done(record: SlotRecord, at: Situation, _: object = None) -> Decision:
    """The step that ran has ended well, and that is all."""
    return move(record, at, DeploymentEvent.STEP_DONE)


def admitted(record: SlotRecord, at: Situation, wait: Wait | None) -> Decision | None:
    """Verified, or staged: on to the switch, unless its policy or this host says otherwise. `wait`: of a switch."""
    if record.state is State.STAGED and policy_of(record).hold:
        return None
    return _go_on(record, at, wait, DeploymentEvent.GO, fault=None)


def reconsidered(record: SlotRecord, at: Situation, wait: Wait | None) -> Decision | None:
    """A deferred deployment: does what holds it up still hold? `wait`: of a download while files are missing, else of
    a switch."""
    if wait is None or policy_of(record).hold:
        return move(record, at, DeploymentEvent.RETRY_DUE, fault=None)
    changes = _waiting(wait)
    if (record.fault, record.until) == (changes["fault"], changes["until"]):
        return None
    return Decision(record.model_copy(update=changes))


def warmed(record: SlotRecord, at: Situation, parity: Parity | None, wait: Wait | None) -> Decision:
    """The candidate's worker is loaded; `parity`: how it answers the golden vectors. `wait`: of a switch."""
    choice = chosen(record).model_copy(update={"parity": parity})
    if parity is not None and not parity.passed:
        return _judged_bad(record, at, choice, DeploymentCode.GOLDEN_MISMATCH, _off_by(choice, parity))
    why_not = _why_no_shadow(record, at)
    if why_not is None and not policy_of(record).hold:
        return move(record, at, DeploymentEvent.COMPARE, candidate=choice)
    fault = Fault(code="", message=why_not) if why_not else None
    return _ready(record, at, wait, candidate=choice, fault=fault)


def shadow_verdict(record: SlotRecord, at: Situation, figures: ShadowFigures, for_s: float) -> ProbationVerdict | None:
    """Has the candidate been compared enough, which went on `for_s` seconds? The policy that holds now counts; None:
    it goes on."""
    policy = policy_of(record).shadow
    if policy is None:
        return ProbationVerdict("", "the shadow was called off")
    if record.active is None or at.given_up:
        return ProbationVerdict("", "the shadow ended early: nothing serves beside it any more")
    return judge_shadow(policy, figures, over=for_s >= policy.duration_s)


def compared(
    record: SlotRecord, at: Situation, verdict: ProbationVerdict, figures: ShadowFigures, wait: Wait | None
) -> Decision:
    """The shadow has ended, and its candidate is idle. `wait`: of a switch."""
    if verdict.code:
        return _judged_bad(record, at, chosen(record), verdict.code, verdict.message, shadow=figures)
    return _ready(record, at, wait, shadow=figures, fault=Fault(code="", message=verdict.message))


def new_trial(record: SlotRecord, at: Situation) -> Trial:
    """Of the candidate: what the last committed version did until now, by this agent's own counts or by the
    journal's. Asked before the switch, which begins other counts."""
    if not record.proven:
        trial = record.trial or Trial()
        return Trial(before_us=trial.before_us, before=trial.before)
    seen, looked = at.tally.seen(), record.looked
    if looked is None or (seen is not None and looked.answered <= seen.answered):
        looked = seen
    return Trial(before_us=p99(at.tally.run.view(), policy_of(record).probation.min_requests), before=looked)


def switched(record: SlotRecord, at: Situation, trial: Trial, gap_s: float | None) -> Decision:
    """The candidate answers; what was committed last is what to go back to.

    Args:
        trial: From `new_trial`, before the switch.
        gap_s: Seconds in which nothing answered.
    """
    choice, last = bound(record), record.last_committed()
    return move(
        record,
        at,
        DeploymentEvent.STEP_DONE,
        active=choice,
        proven=False,
        previous=last if last is not None and last.variant_digest != choice.variant_digest else None,
        candidate=None,
        attempts=0,
        gap_s=gap_s,
        looked=None,
        trial=trial,
    )


def bound(record: SlotRecord) -> Choice:
    """The candidate with the options that are desired now: they may have changed since it was chosen."""
    choice = chosen(record)
    return choice.bound_to(record.desired) if record.desired is not None else choice


def _ready(record: SlotRecord, at: Situation, wait: Wait | None, **changes: Any) -> Decision:
    """On to the switch, unless its policy or this host says otherwise by now."""
    if at.cleared:  # With nothing answering there is no way but on.
        return move(record, at, DeploymentEvent.STEP_DONE, **changes)
    return _go_on(record, at, wait, DeploymentEvent.STEP_DONE, **changes)


def _go_on(record: SlotRecord, at: Situation, wait: Wait | None, event: DeploymentEvent, **changes: Any) -> Decision:
    """`event`, unless its policy holds it or this host says not now."""
    if policy_of(record).hold:
        fault = Fault(code=DeploymentCode.HELD, message="the rollout holds it before the switch")
        return move(record, at, DeploymentEvent.HELD, **{**changes, "fault": fault})
    if wait is not None:
        return move(record, at, DeploymentEvent.DEFER, **{**changes, **_waiting(wait)})
    return move(record, at, event, **changes)


def _why_no_shadow(record: SlotRecord, at: Situation) -> str | None:
    """None: the candidate is compared with what serves first. Empty: nobody asks for it."""
    if policy_of(record).shadow is None:
        return ""
    if record.shadow is not None:
        return "shadow: done before it was held up"
    if at.cleared:
        return "no shadow: the version before had to end first"
    return None if at.serving is not None else "no shadow: nothing serves beside it"


def _judged_bad(record: SlotRecord, at: Situation, choice: Choice, code: str, text: str, **changes: Any) -> Decision:
    """Given up; on this device only another attempt brings it again."""
    bad = quarantined(record, at, choice, code, text)
    return step_failed(record, at, PermanentError(code, text), candidate=choice, quarantine=bad, **changes)


def _off_by(choice: Choice, parity: Parity) -> str:
    name, agreement = choice.variant.name, parity.top1_agreement
    text = f"{name} is off by {parity.max_abs:.3g} (relative {parity.max_rel:.3g}) from the golden vectors"
    return text if agreement is None else f"{text}, and agrees in {agreement:.1%} of the top classes"


def _waiting(wait: Wait) -> dict[str, Any]:
    return {"fault": Fault(code=wait.code, message=wait.message[:2000]), "until": wait.until}
