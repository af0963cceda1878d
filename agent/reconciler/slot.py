"""One model's slot: moves its deployment along `core.lifecycle`, one written-down step at a time.

Each `_do_…` method is one effect of the table. A step that runs is the slot's one task; when a journal write fails
the step it belongs to does not happen, and the slot starts that state again a little later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.adapters.registry_client import UnreachableError
from agent.core.backoff import DEPLOYMENT
from agent.core.lifecycle import ON_RESTART, Effect, Event, State, advance
from agent.core.slots import Choice, SlotRecord, report
from agent.errors import AgentError, PermanentError
from agent.reconciler.context import Context
from agent.reconciler.keeper import Keeper
from agent.reconciler.ports import LoadedWorker
from agent.reconciler.tasks import Task
from registry.contracts.codes import DeploymentCode
from registry.contracts.messages import DesiredModel, Fault, ReportedModel

JOURNAL_RETRY_S = 5.0
_RUNNING = frozenset(
    {State.RESOLVING, State.DOWNLOADING, State.VERIFYING, State.WARMING, State.SWITCHING, State.RETIRING}
)


class Slot:
    """Control thread only."""

    def __init__(self, context: Context, record: SlotRecord) -> None:
        self.record = record
        self.keeper = Keeper(context, self._active_is_lost)
        self._context = context
        self._task: Task[Any] | None = None
        self._candidate: LoadedWorker | None = None
        self._retry_at: float | None = None
        self._last_delay: float | None = None
        """The registry's own wish, from Retry-After."""
        context.records[record.model] = record
        context.data_path.assign(record.model)

    @property
    def gone(self) -> bool:
        """The journal has forgotten it."""
        return self.record.model not in self._context.records

    @property
    def busy(self) -> bool:
        """Something is being installed: the cache must not be swept."""
        return self._task is not None

    def report(self) -> ReportedModel:
        """What this slot says of itself."""
        return report(self.record, self.keeper.serving, self.keeper.crash, given_up=self.keeper.given_up)

    def next_due(self) -> float | None:
        """When `tend` has something to do by the clock, in monotonic seconds."""
        times = [time for time in (self._retry_at, self.keeper.wake_at) if time is not None]
        return min(times, default=None)

    def revive(self) -> None:
        """Starts the worker of what should answer, when none is there and it is due."""
        if self.record.state is not State.RETIRING:
            self.keeper.tend(self.record.active)

    def restart(self) -> None:
        """The agent has just started: what the journal says is under way is taken up."""
        step = ON_RESTART[self.record.state]
        self._enter(step.to, step.effects, {})

    def want(self, desired: DesiredModel | None, generation: int) -> None:
        """Compares with what is desired, and takes at most one step."""
        record = self.record
        if record.state is State.RETIRING:
            return
        if generation > record.generation:
            self.keeper.forgive()
        if desired is None:
            self._move(Event.WITHDRAWN, desired=None, generation=generation)
        elif record.active is not None and record.active.serves(desired):
            if record.state is not State.IDLE:
                self._move(Event.SETTLED, desired=desired, generation=generation, candidate=None, fault=None)
            elif (record.desired, record.generation) != (desired, generation):
                self._save(record.model_copy(update={"desired": desired, "generation": generation, "fault": None}))
        elif record.state is State.IDLE or record.desired != desired or self._asked_again(generation):
            self._move(Event.ASSIGNED, desired=desired, generation=generation, attempts=0, fault=None, candidate=None)

    def tend(self) -> None:
        """Does what is due by the clock, and what a refused journal write left undone."""
        self.revive()
        if self._retry_at is not None:
            if self._context.clock.monotonic() < self._retry_at:
                return
            self._retry_at = None
            if self.record.state is State.WAITING:
                self._move(Event.RETRY_DUE)
        if self._stuck:
            self._do_cancel()
            self.restart()

    def postpone(self) -> None:
        """The journal refused: the disk is full or broken. Look again later."""
        if self._stuck:
            self._retry_at = self._context.clock.monotonic() + JOURNAL_RETRY_S

    @property
    def _stuck(self) -> bool:
        """In a state that works, with nothing that does: the journal refused to write the next one down."""
        return self._task is None and self.record.state in _RUNNING

    def died(self, worker: object, reason: str) -> None:
        """A worker of this model died."""
        if self.keeper.died(worker, reason):
            crash = self.keeper.crash
            code = crash.code if crash else DeploymentCode.WORKER_CRASHED
            self._context.voice.tell("worker", phase="died", code=code, message=reason, slot=self.record)

    def stop(self) -> list[LoadedWorker]:
        """The agent ends: no step goes on. The workers that are left, for the caller to close."""
        self._do_cancel()
        self.keeper.stop_trying()
        return [self.keeper.worker] if self.keeper.worker is not None else []

    def _asked_again(self, generation: int) -> bool:
        return self.record.state is State.FAILED and generation > self.record.generation

    def _move(self, event: Event, **changes: Any) -> None:
        step = advance(self.record.state, event)
        self._enter(step.to, step.effects, changes)

    def _enter(self, to: State, effects: tuple[Effect, ...], changes: dict[str, Any]) -> None:
        """Writes the new state down, then does the effects."""
        record = self.record.model_copy(update={"state": to, **changes})
        if record != self.record:
            self._save(record)
        for effect in effects:
            self._EFFECTS[effect](self)

    def _save(self, record: SlotRecord) -> None:
        self._context.journal.save(record)
        self._context.fault = None
        self.record = self._context.records[record.model] = record
        self._context.changed = True

    def _do_cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._candidate is not None:
            self._context.discard(self._candidate)
            self._candidate = None
        self._retry_at = None

    def _do_resolve(self) -> None:
        record = self.record
        if record.desired is None:
            raise PermanentError("internal", f"slot {record.model} resolves without a desired state")
        desired = record.desired
        self._step(
            lambda cancel: self._context.steps.resolve(record.model, desired, cancel),
            self._resolved,
        )

    def _resolved(self, choice: Choice) -> None:
        if choice.degraded:
            text = f"variant {choice.variant.name} runs on the CPU, and an accelerator of this host lies idle"
            self._context.voice.tell("deployment", phase="degraded", message=text, slot=self.record)
        self._move(Event.STEP_DONE, candidate=choice)

    def _do_download(self) -> None:
        choice = self._chosen()
        keep = {place.variant_digest for record in self._context.records.values() for place in record.places()}
        self._step(
            lambda cancel: self._context.steps.download(choice, keep, cancel), lambda _: self._move(Event.STEP_DONE)
        )

    def _do_verify(self) -> None:
        choice = self._chosen()
        self._step(
            lambda cancel: self._context.steps.verify(choice, cancel),
            lambda _: self._move(Event.STEP_DONE),
            loads=True,
        )

    def _do_warm(self) -> None:
        choice = self._chosen()
        measured = self._context.measured(choice)
        self._step(
            lambda cancel: self._context.steps.warm(choice, measured, cancel),
            self._warmed,
            discard=self._context.discard,
            loads=True,
        )

    def _warmed(self, worker: LoadedWorker) -> None:
        self._candidate = worker
        self._context.keep_measure(self._chosen(), worker)
        self._move(Event.STEP_DONE)

    def _do_switch(self) -> None:
        choice, worker = self._chosen(), self._candidate
        if worker is None:  # Written down as switching, but the worker is gone: from the beginning.
            self.restart()
            return
        self._candidate = None
        self.keeper.take(choice, worker)
        self._move(Event.STEP_DONE, active=choice, previous=self.record.active, candidate=None, attempts=0, fault=None)

    def _do_schedule_retry(self) -> None:
        clock = self._context.clock
        delay = DEPLOYMENT.delay(self.record.attempts, clock.chance())
        self._retry_at = clock.monotonic() + max(delay, self._last_delay or 0.0)

    def _do_retire(self) -> None:
        def ended() -> None:
            self._task = None
            self._move(Event.STEP_DONE)

        self._task = Task[None](lambda _: None, lambda _: None, lambda _: None)
        self.keeper.withdraw(self.record.model, ended)

    def _do_forget(self) -> None:
        self._context.journal.forget(self.record.model)
        self._context.records.pop(self.record.model, None)
        self._context.changed = True

    def _do_report(self) -> None:
        fault = self.record.fault
        self._context.voice.tell(
            "deployment",
            phase=self._phase(),
            code=fault.code if fault else "",
            message=fault.message if fault else "",
            slot=self.record,
        )
        self._context.changed = True

    def _phase(self) -> str:
        return "serving" if self.record.state is State.IDLE and self.record.active else str(self.record.state)

    def _step(
        self,
        work: Callable[[Any], Any],
        done: Callable[[Any], None],
        *,
        discard: Callable[[Any], None] | None = None,
        loads: bool = False,
    ) -> None:
        """Runs one step of the deployment in a pool."""
        if self._context.desired.expired(self._context.clock.now()):
            self._failed(PermanentError(DeploymentCode.DESIRED_EXPIRED, "the desired state has expired: nothing new"))
            return

        def succeeded(result: Any) -> None:
            self._task = None
            done(result)

        pool = self._context.loads if loads else self._context.network
        self._task = Task(work, succeeded, self._failed, discard).start(pool, self._context.put)

    def _failed(self, error: AgentError) -> None:
        self._task = None
        came_further = isinstance(error, UnreachableError) and error.progress
        attempts = 1 if came_further else self.record.attempts + 1
        self._last_delay = error.retry_after_s if isinstance(error, UnreachableError) else None
        over = isinstance(error, PermanentError) or DEPLOYMENT.exhausted(attempts, error.code)
        fault = Fault(code=error.code, message=error.message[:2000], attempts=attempts)
        self._move(Event.GIVEN_UP if over else Event.RETRY_LATER, attempts=attempts, fault=fault)

    def _active_is_lost(self, error: AgentError) -> None:
        """Its files are wrong, or this host cannot run it any more: deployed anew, chosen by the facts of today."""
        self._context.voice.tell("worker", phase="lost", code=error.code, message=error.message, slot=self.record)
        self._save(self.record.model_copy(update={"active": None}))

    def _chosen(self) -> Choice:
        if self.record.candidate is None:
            raise PermanentError("internal", f"slot {self.record.model} is {self.record.state} without a candidate")
        return self.record.candidate

    _EFFECTS: dict[Effect, Callable[[Slot], None]] = {  # noqa: RUF012 - a table, never changed
        Effect.CANCEL: _do_cancel,
        Effect.RESOLVE: _do_resolve,
        Effect.DOWNLOAD: _do_download,
        Effect.VERIFY: _do_verify,
        Effect.WARM: _do_warm,
        Effect.SWITCH: _do_switch,
        Effect.SCHEDULE_RETRY: _do_schedule_retry,
        Effect.RETIRE: _do_retire,
        Effect.FORGET: _do_forget,
        Effect.REPORT: _do_report,
    }
