"""THE table of what the effects of `core.lifecycle` do to a slot; those that install something are in `installing`.

INVARIANT: the state that an effect belongs to has been written down before it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.core.lifecycle import Effect, Event
from agent.core.progress import phase_of
from agent.errors import AgentError, PermanentError
from agent.reconciler import installing
from agent.reconciler.tasks import Task

if TYPE_CHECKING:
    from agent.reconciler.slot import Slot


def _cancel(slot: Slot) -> None:
    slot.cancel()


def _rebind(slot: Slot) -> None:
    if slot.record.active is not None:
        slot.supervisor.rebind(slot.record.active)


def _shadow(slot: Slot) -> None:
    slot.shadowing.begin()


def _watch(slot: Slot) -> None:
    slot.watchdog.begin()


def _unwatch(slot: Slot) -> None:
    slot.watchdog.end()


def _roll_back(slot: Slot) -> None:
    """The previous version is the active one in the journal by now: its worker is all that is missing."""
    active, supervisor = slot.record.active, slot.supervisor
    supervisor.stop_trying()
    if supervisor.answers(active):  # The agent was started anew, and brought it back before anything else.
        slot.move(Event.STEP_DONE, attempts=0)
        return
    installing.clear_if_tight(slot)
    slot.revive()


def _repair(slot: Slot) -> None:
    """Files that are gone or wrong are pulled anew; what is there needs no network."""
    choice, keep, steps = slot.record.active, slot.context.kept(), slot.context.steps
    if choice is None:
        raise PermanentError("internal", f"slot {slot.record.model} has nothing to go back to")

    def repaired(_: None) -> None:
        slot.task = None
        if not slot.supervisor.starting:
            slot.supervisor.stop_trying()
            slot.revive()

    def failed(error: AgentError) -> None:
        slot.task = None
        slot.watchdog.did_not_come_up(error, 0)

    work = Task(lambda cancel: steps.download(choice, keep, cancel), repaired, failed)
    slot.task = work.start(slot.context.network, slot.context.put)


def _schedule_retry(slot: Slot) -> None:
    slot.retry_at = slot.context.clock.monotonic() + slot.retry_delay


def _try_once(slot: Slot) -> None:
    slot.try_once()


def _retire(slot: Slot) -> None:
    def ended() -> None:
        slot.task = None
        slot.move(Event.STEP_DONE)

    slot.task = Task[None](lambda _: None, lambda _: None, lambda _: None)
    slot.supervisor.withdraw(ended)


def _forget(slot: Slot) -> None:
    slot.context.journal.forget(slot.record.model)
    slot.context.records.pop(slot.record.model, None)
    slot.context.changed = True


def _report(slot: Slot) -> None:
    """One event for every phase; the reported state follows at the end of the look."""
    fault, phase = slot.record.fault, phase_of(slot.record)
    slot.context.publisher.publish(
        "deployment" if phase is not None else "worker",
        phase=str(phase if phase is not None else slot.record.state),
        code=fault.code if fault else "",
        message=fault.message if fault else "",
        slot=slot.record,
    )
    slot.context.changed = True


EFFECTS: dict[Effect, Callable[[Slot], None]] = {
    Effect.CANCEL: _cancel,
    Effect.RESOLVE: installing.resolve,
    Effect.DOWNLOAD: installing.download,
    Effect.VERIFY: installing.verify,
    Effect.ADMIT: installing.admit,
    Effect.WARM: installing.warm,
    Effect.SHADOW: _shadow,
    Effect.SWITCH: installing.switch,
    Effect.REBIND: _rebind,
    Effect.WATCH: _watch,
    Effect.UNWATCH: _unwatch,
    Effect.ROLL_BACK: _roll_back,
    Effect.REPAIR: _repair,
    Effect.SCHEDULE_RETRY: _schedule_retry,
    Effect.TRY_ONCE: _try_once,
    Effect.RETIRE: _retire,
    Effect.FORGET: _forget,
    Effect.REPORT: _report,
}
