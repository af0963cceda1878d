"""One model's slot: writes down what the machine decides, then carries it out.

The machine (`agent.core.machine`) is pure. Here it is told what happened and what holds at the moment, its record goes
into the journal, then its commands are carried out in their order. When a journal write fails nothing of the decision
happens, and the slot starts that state again a little later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

from agent.core.lifecycle import BUSY, Effect, State
from agent.core.machine.decision import Decision, PublishEvent, RetryStart, Situation, Upkeep
from agent.core.machine.install import (
    RESTS,
    desired_changed,
    due,
    host_changed,
    is_stuck,
    restarted,
    tried_once,
    waits_for_retry,
)
from agent.core.machine.trial import (
    agent_started,
    agent_stops,
    assess,
    came_up,
    known_in,
    probation_begins,
    start_failed,
    watches,
    worker_died,
)
from agent.core.slots import Live, SlotRecord, phase_of, report
from agent.errors import AgentError
from agent.reconciler.context import Context
from agent.reconciler.installation import INSTALLS, Decider, Installation
from agent.reconciler.supervisor import WorkerSupervisor
from agent.worker.spec import Worker
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.messages import DesiredModel, ReportedModel

JOURNAL_RETRY_S = 5.0
PROGRESS_EVERY_S = 10.0
"""While a download or a shadow runs, a report says so often how far it is."""
ASSESS_EVERY_S = 1.0
"""What is on trial."""
_TELLS_PROGRESS = frozenset({State.DOWNLOADING, State.SHADOWING})
_COMES = BUSY | {State.STAGED, State.SHADOWING}
"""A candidate is on its way: what serves is looked at meanwhile, because the candidate will be compared with it."""
_UNTENDED = frozenset({State.RETIRING, State.SWITCHING})
"""What should answer is about to change: nothing is started for the active place."""


class Slot:
    """Control thread only."""

    def __init__(self, context: Context, record: SlotRecord) -> None:
        self.record = record
        self._context = context
        self.supervisor = WorkerSupervisor(
            context,
            record.model,
            came_up=lambda: self.decide(came_up),
            start_failed=lambda error: self.decide(lambda now, at: start_failed(now, at, error)),
        )
        self.installation = Installation(context, self.supervisor, self.decide)
        self._retry_at: float | None = None
        """Monotonic, as the others here."""
        self._retry_s = 0.0
        self._watched_since: float | None = None
        self._assess_at: float | None = None
        self._tell_progress_at = 0.0
        context.records[record.model] = record
        context.data_path.assign(record.model)

    @property
    def gone(self) -> bool:
        """The journal has forgotten it."""
        return self.record.model not in self._context.records

    @property
    def busy(self) -> bool:
        """Something is being installed: the cache must not be swept."""
        return self.installation.busy

    def report(self) -> ReportedModel:
        """What this slot says of itself."""
        supervisor, candidate = self.supervisor, self.record.candidate
        return report(
            self.record,
            Live(
                serving=supervisor.serving,
                crash=supervisor.crash,
                given_up=supervisor.given_up and self.record.state is not State.ROLLBACK_FAILED,
                bytes_done=self._context.steps.received(candidate) if candidate is not None else 0,
                shadow=self.installation.figures(),
                cleared=supervisor.cleared_at is not None,
            ),
        )

    def next_due(self) -> float | None:
        """When `tend` has something to do by the clock, in monotonic seconds."""
        assess_at = self._assess_at if watches(self.record) else None
        times = (self._retry_at, self.supervisor.wake_at, assess_at, self.installation.next_due())
        return min((time for time in times if time is not None), default=None)

    # --- what happens -----------------------------------------------------------------------------------------------

    def take_up(self) -> None:
        """The agent has just started: what served is started again."""
        self.decide(agent_started)
        if watches(self.record):
            self._watched_since = self._context.clock.monotonic()
            self._assess(assess)
        self.revive()

    def restart(self) -> None:
        """What the journal says is under way is taken up."""
        self.decide(restarted)

    def want(self, desired: DesiredModel | None, generation: int) -> None:
        """Compares with what is desired. What is overtaken ends under its own name, then that is taken up."""
        for _ in range(3):
            before = self.record
            self.decide(lambda now, at: desired_changed(now, at, desired, generation))
            if self.gone or self.record is before:
                return

    def tend(self) -> None:
        """Does what is due by the clock, and what a refused journal write left undone."""
        self.revive()
        now = self._context.clock.monotonic()
        if self._retry_at is None or now >= self._retry_at:
            self._retry_at = None
            if self.record.state not in RESTS:
                self.decide(due)
        if watches(self.record):
            self._assess(assess)
        self._count_answers()
        if self.record.state in _TELLS_PROGRESS and now >= self._tell_progress_at:
            self._tell_progress_at = now + PROGRESS_EVERY_S
            self._context.changed = True

    def postpone(self) -> None:
        """The journal refused: the disk is full or broken. Look again later."""
        at = self._situation()
        if is_stuck(self.record, at) or waits_for_retry(self.record, at):
            self._retry_at = at.monotonic + JOURNAL_RETRY_S

    def died(self, worker: object, reason: str) -> None:
        """A worker of this model died."""
        if self.supervisor.died(worker, reason):
            crash = self.supervisor.crash
            self._publish(PublishEvent("died", reason, crash.code if crash else DeploymentCode.WORKER_CRASHED))
            self.decide(worker_died)

    def host_changed(self) -> None:
        """This host is another than it was."""
        self.supervisor.hurry()
        self.decide(host_changed)

    def stop(self) -> list[Worker]:
        """The agent ends: no step goes on. The workers that are left, for the caller to close. A disk that does not
        take the order lets this count as an end without one."""
        self.cancel()
        self.supervisor.stop_trying()
        with contextlib.suppress(AgentError):
            self.decide(agent_stops)
        return [self.supervisor.worker] if self.supervisor.worker is not None else []

    # --- what is decided --------------------------------------------------------------------------------------------

    def decide(self, decider: Decider) -> None:
        """Asks the machine, and does what it says."""
        decision = decider(self.record, self._situation())
        if decision is not None:
            self._carry_out(decision)

    def _situation(self) -> Situation:
        context, supervisor, clock = self._context, self.supervisor, self._context.clock
        now = clock.now()
        return Situation(
            now=now,
            monotonic=clock.monotonic(),
            chance=clock.chance,
            boot=context.boot,
            desired_expired=context.desired.expired(now),
            stale=context.freshness.stops,
            step_runs=self.installation.busy,
            comparing=self.installation.comparing,
            retry_pending=self._retry_at is not None,
            serving=supervisor.serving.choice if supervisor.serving is not None else None,
            cleared=supervisor.cleared_at is not None,
            given_up=supervisor.given_up,
            crash=supervisor.crash,
            tally=supervisor.tally,
            watched_since=self._watched_since,
        )

    def _carry_out(self, decision: Decision) -> None:
        """To the journal first. Raises TransientError, and then nothing has changed."""
        if decision.record is not self.record and decision.record != self.record:
            record = decision.record.model_copy(update={"boot": self._context.boot})
            self._context.journal.save(record)
            self._context.fault = None
            self.record = self._context.records[record.model] = record
            self._context.changed = True
        self._count_answers()
        self._retry_s = decision.retry_s
        for command in decision.commands:
            if isinstance(command, PublishEvent):
                self._publish(command)
            elif isinstance(command, RetryStart):
                self.supervisor.retry(command.error)
            elif command in INSTALLS:
                self.decide(partial(INSTALLS[command], self.installation))
            else:
                COMMANDS[command](self)

    def _count_answers(self) -> None:
        """What the data path is to look at in answers, and what of it is known from the version before."""
        tally, on_trial = self.supervisor.tally, self.record.on_trial()
        tally.watching = on_trial or self.record.state in _COMES
        if on_trial and self.record.trial is not None:
            tally.known = known_in(self.record.trial.before)

    def _assess(self, decider: Decider) -> None:
        self._assess_at = self._context.clock.monotonic() + ASSESS_EVERY_S
        self.decide(decider)

    def _publish(self, event: PublishEvent) -> None:
        self._context.publisher.publish(
            "worker", phase=event.phase, code=event.code, message=event.message, slot=self.record
        )

    # --- the commands -----------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """No step goes on, no candidate is kept, and the active version may be started again."""
        self.installation.cancel()
        self.supervisor.resume()
        self._retry_at = None

    def rebind(self) -> None:
        """The same worker goes on under the options of the record."""
        if self.record.active is not None:
            self.supervisor.rebind(self.record.active)

    def revive(self) -> None:
        """Starts the worker of what should answer, when none is there and it is due."""
        if self.record.state not in _UNTENDED:
            self.supervisor.tend(self.record.active)

    def watch(self) -> None:
        """The probation begins."""
        self._watched_since = self._context.clock.monotonic()
        self._assess(probation_begins)

    def unwatch(self) -> None:
        """The probation is over."""
        self._watched_since = self._assess_at = None

    def roll_back(self) -> None:
        """The previous version is the active one in the journal by now: its worker is all that is missing, unless the
        agent was started again, and has brought it back before anything else."""
        self.supervisor.make_room(self.record.active)
        if self.supervisor.answers(self.record.active):
            self.decide(came_up)
        else:
            self.revive()

    def schedule_retry(self) -> None:
        """As long after now as was decided."""
        self._retry_at = self._context.clock.monotonic() + self._retry_s

    def forget(self) -> None:
        """Removes the slot from the journal."""
        self._context.journal.forget(self.record.model)
        self._context.records.pop(self.record.model, None)
        self._context.changed = True

    def publish_phase(self) -> None:
        """One event for every phase; the reported state follows at the end of the look."""
        fault, phase = self.record.fault, phase_of(self.record)
        self._context.publisher.publish(
            "deployment" if phase is not None else "worker",
            phase=str(phase if phase is not None else self.record.state),
            code=fault.code if fault else "",
            message=fault.message if fault else "",
            slot=self.record,
        )
        self._context.changed = True


COMMANDS: dict[Effect | Upkeep, Callable[[Slot], None]] = {
    Effect.CANCEL: Slot.cancel,
    Effect.REBIND: Slot.rebind,
    Effect.WATCH: Slot.watch,
    Effect.UNWATCH: Slot.unwatch,
    Effect.ROLL_BACK: Slot.roll_back,
    Effect.SCHEDULE_RETRY: Slot.schedule_retry,
    Effect.TRY_ONCE: lambda slot: slot.decide(tried_once),
    Effect.FORGET: Slot.forget,
    Effect.REPORT: Slot.publish_phase,
    Upkeep.FORGIVE: lambda slot: slot.supervisor.forgive(),
    Upkeep.GIVE_UP: lambda slot: slot.supervisor.give_up(),
    Upkeep.MAKE_ROOM: lambda slot: slot.supervisor.make_room(slot.record.active),
    Upkeep.REVIVE: Slot.revive,
}
"""The others."""
