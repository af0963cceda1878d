"""From a wish to a version that answers: what the effects of `core.lifecycle` that install something do to a slot.

Slow work goes into a pool and comes back as one event. What this host has a say in is asked in `_may_download` and
`_may_switch`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent.core.lifecycle import Event, State
from agent.core.probation import Seen, p99
from agent.core.slots import Choice, Looked, Quarantined, Trial
from agent.core.strategy import choose, need_of
from agent.errors import PermanentError
from agent.reconciler.ports import Waiting
from agent.reconciler.tasks import Task
from agent.worker.spec import Worker
from registry.contracts.catalogue.golden import Parity
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import Strategy
from registry.contracts.device.messages import Fault

if TYPE_CHECKING:
    from agent.reconciler.slot import Slot

Warmed = tuple[Worker, "Parity | None"]


def resolve(slot: Slot) -> None:
    """Fetches the manifest and chooses; then it is asked whether it may be downloaded now."""
    record = slot.record
    wish = record.desired
    if wish is None:
        raise PermanentError("internal", f"slot {record.model} resolves without a desired state")
    slot.step(
        lambda cancel: slot.context.steps.resolve(record.model, wish, cancel), lambda choice: _resolved(slot, choice)
    )


def _resolved(slot: Slot, choice: Choice) -> None:
    wish = slot.record.desired
    bad = slot.record.barred(choice, wish.attempt if wish is not None else 0)
    if bad is not None:
        text = f"{choice.version} failed on this device ({bad.code}: {bad.message}): only another attempt brings it"
        slot.failed(PermanentError(DeploymentCode.QUARANTINED, text), candidate=choice)
        return
    if choice.degraded:
        text = f"variant {choice.variant.name} runs on the CPU, and an accelerator of this host lies idle"
        slot.context.publisher.publish("worker", phase="degraded", message=text, slot=slot.record)
    before = slot.record.candidate
    same = before is not None and before.variant_digest == choice.variant_digest
    shadow = slot.record.shadow if same else None
    wait = _may_download(slot, choice)
    if wait is not None:
        slot.move(Event.DEFER, candidate=choice, shadow=shadow, **_waiting(wait))
    else:
        slot.move(Event.STEP_DONE, candidate=choice, shadow=shadow)


def _may_download(slot: Slot, choice: Choice) -> Waiting | None:
    """THE place where this host's say in a download is asked."""
    missing = choice.variant.size - slot.context.steps.received(choice)
    return slot.context.host.may_download(slot.record.model, slot.policy, _offered_at(slot), missing)


def _may_switch(slot: Slot) -> Waiting | None:
    """THE place where this host's say in a switch is asked."""
    return slot.context.host.may_switch(slot.record.model, slot.policy, _offered_at(slot))


def _offered_at(slot: Slot) -> Any:
    """By a wall clock that was not set since this agent started: a jump neither ends a wait nor stretches it."""
    now = slot.context.clock.now()
    stamp = slot.record.offered_at
    return now if stamp is None else slot.offered.at(stamp, now, slot.context.clock.monotonic())


def _waiting(wait: Waiting) -> dict[str, Any]:
    return {"fault": Fault(code=wait.code, message=wait.message[:2000]), "until": wait.until}


def reconsider(slot: Slot) -> None:
    """A deferred deployment: does what holds it up still hold?"""
    choice = slot.chosen()
    missing = choice.variant.size > slot.context.steps.received(choice)
    wait = _may_download(slot, choice) if missing else _may_switch(slot)
    if wait is None or slot.policy.hold:
        slot.move(Event.RETRY_DUE, fault=None)
        return
    changes = _waiting(wait)
    if (slot.record.fault, slot.record.until) != (changes["fault"], changes["until"]):
        slot.save(slot.record.model_copy(update=changes))


def download(slot: Slot) -> None:
    """Everything that is not here yet."""
    choice, keep = slot.chosen(), slot.context.kept()
    slot.step(lambda cancel: slot.context.steps.download(choice, keep, cancel), lambda _: slot.move(Event.STEP_DONE))


def verify(slot: Slot) -> None:
    """Every byte."""
    choice = slot.chosen()
    slot.step(
        lambda cancel: slot.context.steps.verify(choice, cancel), lambda _: slot.move(Event.STEP_DONE), loads=True
    )


def admit(slot: Slot) -> None:
    """Verified, or staged: on to the switch, unless its policy or this host says otherwise."""
    if slot.policy.hold:
        if slot.record.state is not State.STAGED:
            slot.move(Event.HELD, fault=_held())
        return
    wait = _may_switch(slot)
    if wait is not None:
        slot.move(Event.DEFER, **_waiting(wait))
    else:
        slot.move(Event.GO, fault=None)


def _held() -> Fault:
    return Fault(code=DeploymentCode.HELD, message="the rollout holds it before the switch")


def warm(slot: Slot) -> None:
    """Loads the candidate: beside the active version, or in its place where there is no room for both."""
    choice, supervisor = slot.chosen(), slot.supervisor
    if supervisor.worker is not None:
        room = slot.context.steps.room(supervisor.worker)
        how = choose(slot.policy.strategy, choice.variant, room)
        if how is None:
            text = (
                f"{choice.version} needs {need_of(choice.variant, room)} bytes beside the active version and "
                f"{room.free} are free: strategy stop_first or auto would end that first"
            )
            slot.failed(PermanentError(DeploymentCode.MEMORY_INSUFFICIENT, text))
            return
        if how is Strategy.STOP_FIRST:
            _clear_first(slot, lambda: _load(slot, choice))
            return
    _load(slot, choice)


def _clear_first(slot: Slot, then: Callable[[], None]) -> None:
    """Ends the active version's worker; `then` runs when its memory is free, unless it was cancelled meanwhile."""
    waiting = slot.task = Task[None](lambda _: None, lambda _: None, lambda _: None)

    def ended() -> None:
        if slot.task is waiting:
            then()

    slot.supervisor.clear(ended)


def clear_if_tight(slot: Slot) -> None:
    """Where there is no room for what should answer beside what does, that ends first, then this is started."""
    active, supervisor = slot.record.active, slot.supervisor
    if active is not None and supervisor.worker is not None:
        room = slot.context.steps.room(supervisor.worker)
        if choose(Strategy.AUTO, active.variant, room) is Strategy.STOP_FIRST:
            supervisor.clear(supervisor.resume)


def _load(slot: Slot, choice: Choice) -> None:
    context = slot.context
    measured = context.measured(choice)

    def work(cancel: Any) -> Warmed:
        worker = context.steps.warm(choice, measured, cancel)
        if choice.golden is None:
            return worker, None
        try:
            return worker, context.steps.compare(choice, worker, cancel)
        except BaseException:
            worker.close(context.drain_timeout_s)
            raise

    slot.step(
        work, lambda warmed: _warmed(slot, *warmed), discard=lambda warmed: context.discard(warmed[0]), loads=True
    )


def _warmed(slot: Slot, worker: Worker, parity: Parity | None) -> None:
    slot.candidate = worker
    choice = slot.chosen().model_copy(update={"parity": parity})
    if parity is not None and not parity.passed:
        _answers_wrongly(slot, choice, parity)
        return
    slot.context.keep_measure(choice, worker)
    why_not = _why_no_shadow(slot)
    if why_not is None and not slot.policy.hold:
        slot.move(Event.COMPARE, candidate=choice)
    else:
        go_on(slot, candidate=choice, fault=Fault(code="", message=why_not) if why_not else None)


def _why_no_shadow(slot: Slot) -> str | None:
    """None: the candidate is compared with what serves first. Empty: nobody asks for it."""
    if slot.policy.shadow is None:
        return ""
    if slot.record.shadow is not None:
        return "shadow: done before it was held up"
    if slot.supervisor.cleared_at is not None:
        return "no shadow: the version before had to end first"
    if slot.supervisor.serving is None:
        return "no shadow: nothing serves beside it"
    return None


def go_on(slot: Slot, **changes: Any) -> None:
    """The candidate is ready: on to the switch, unless its policy or this host says otherwise by now."""
    if slot.supervisor.cleared_at is None:  # With nothing answering there is no way but on.
        if slot.policy.hold:
            slot.move(Event.HELD, **{**changes, "fault": _held()})
            return
        wait = _may_switch(slot)
        if wait is not None:
            slot.move(Event.DEFER, **{**changes, **_waiting(wait)})
            return
    slot.move(Event.STEP_DONE, **changes)


def _answers_wrongly(slot: Slot, choice: Choice, parity: Parity) -> None:
    text = (
        f"{choice.variant.name} is off by {parity.max_abs:.3g} (relative {parity.max_rel:.3g}) from the golden vectors"
    )
    if parity.top1_agreement is not None:
        text += f", and agrees in {parity.top1_agreement:.1%} of the top classes"
    bar(slot, choice, DeploymentCode.GOLDEN_MISMATCH, text)


def bar(slot: Slot, choice: Choice, code: str, text: str, **changes: Any) -> None:
    """The candidate was judged and is given up; on this device only another attempt brings it again."""
    bad = quarantined(slot, choice, code, text)
    slot.failed(PermanentError(code, text), candidate=choice, quarantine=bad, **changes)


def quarantined(slot: Slot, choice: Choice, code: str, text: str) -> tuple[Quarantined, ...]:
    """The quarantine with `choice` in it."""
    wish = slot.record.desired
    bad = Quarantined(
        variant_digest=choice.variant_digest,
        version=choice.version,
        code=code,
        message=text[:2000],
        attempt=wish.attempt if wish is not None else 0,
        at=slot.context.clock.now(),
    )
    return slot.record.with_bad(bad)


def switch(slot: Slot) -> None:
    """The candidate answers from now on; what was committed last is what to go back to."""
    record, supervisor = slot.record, slot.supervisor
    choice, worker = slot.chosen(), slot.candidate
    before = p99(supervisor.tally.run.view(), slot.policy.probation.min_requests) if record.proven else None
    looked = looked_at(slot)
    gap: float | None = None
    if not supervisor.answers(choice):
        if worker is None:  # Written down as switching, but the worker is gone: from the beginning.
            slot.restart()
            return
        slot.candidate = None
        gap = supervisor.take(_bound(slot, choice), worker, known=known_in(looked))
    last = record.last_committed()
    slot.move(
        Event.STEP_DONE,
        active=_bound(slot, choice),
        proven=False,
        previous=last if last is not None and last.variant_digest != choice.variant_digest else None,
        candidate=None,
        attempts=0,
        gap_s=gap,
        looked=None,
        trial=Trial(
            before_us=before if record.proven or record.trial is None else record.trial.before_us, before=looked
        ),
    )


def looked_at(slot: Slot) -> Looked | None:
    """What the answers of the last committed version held: by this agent's own counts, or by the journal's."""
    record, seen = slot.record, slot.supervisor.tally.seen()
    if not record.proven:
        return record.trial.before if record.trial is not None else None
    if record.looked is not None and record.looked.answered > seen.answered:
        return record.looked
    return Looked(answered=seen.answered, specials=seen.specials) if seen.answered else None


def known_in(looked: Looked | None) -> int:
    """Bits of the kinds that the version before answered."""
    return Seen(looked.answered, looked.specials).known() if looked is not None else 0


def _bound(slot: Slot, choice: Choice) -> Choice:
    """With the options that are desired now: they may have changed since it was chosen."""
    return choice.bound_to(slot.record.desired) if slot.record.desired is not None else choice
