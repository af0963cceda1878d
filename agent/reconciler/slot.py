"""One model's slot: moves its deployment along `core.lifecycle`, one written-down step at a time.

Here is what moves it: wishes, the clock, outcomes, restarts. What the table's effects do is in `effects`, what watches
a version on probation in `watchdog`. A step that runs is the slot's one task; when a journal write fails the step it
belongs to does not happen, and the slot starts that state again a little later.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from agent.core.backoff import DEPLOYMENT, JUDGED, LONGEST_S, OF_HOST, exhausted
from agent.core.elapsed import SteadySince
from agent.core.lifecycle import BUSY, ON_RESTART, Effect, Event, State, Step, advance
from agent.core.progress import Live, phase_of, report
from agent.core.slots import Choice, SlotRecord
from agent.core.wishes import changes_of, lasts, take
from agent.errors import AgentError, PermanentError, TransientError
from agent.reconciler.context import Context
from agent.reconciler.effects import EFFECTS
from agent.reconciler.installing import admit, reconsider
from agent.reconciler.shadowing import Shadowing
from agent.reconciler.supervisor import Listener, WorkerSupervisor
from agent.reconciler.tasks import Task
from agent.reconciler.watchdog import ROLLS_BACK, Watchdog
from agent.worker.spec import Worker
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import DeploymentPolicy
from registry.contracts.device.messages import DesiredModel, Fault, ReportedModel

JOURNAL_RETRY_S = 5.0
PROGRESS_EVERY_S = 10.0
"""While a download or a shadow runs, a report says so often how far it is."""
_TELLS_PROGRESS = frozenset({State.DOWNLOADING, State.SHADOWING})
_LOADED = frozenset({State.WARMING, State.SHADOWING, State.SWITCHING})
"""A worker of the candidate is there: if the agent dies now, the candidate may be why."""
_COMES = BUSY | {State.STAGED, State.SHADOWING}
_UNTENDED = frozenset({State.RETIRING, State.SWITCHING})
"""What should answer is about to change: nothing is started for the active place."""


class Slot:
    """Control thread only."""

    def __init__(self, context: Context, record: SlotRecord) -> None:
        self.record = record
        self.context = context
        self.watchdog = Watchdog(self)
        listener = Listener(self.watchdog.came_up, self.watchdog.did_not_come_up, self.watchdog.lost)
        self.supervisor = WorkerSupervisor(context, record.model, listener)
        self.shadowing = Shadowing(self)
        self.task: Task[Any] | None = None
        self.candidate: Worker | None = None
        """Loaded and warm, not yet with the data path."""
        self.retry_at: float | None = None
        self.retry_delay = 0.0
        """Seconds from the failure of a step to the next try."""
        self.offered = SteadySince()
        self._tell_progress_at = 0.0
        context.records[record.model] = record
        context.data_path.assign(record.model)

    @property
    def gone(self) -> bool:
        """The journal has forgotten it."""
        return self.record.model not in self.context.records

    @property
    def busy(self) -> bool:
        """Something is being installed: the cache must not be swept."""
        return self.task is not None

    @property
    def policy(self) -> DeploymentPolicy:
        """How the deployment under way is to be carried out."""
        return self.record.desired.policy if self.record.desired else DeploymentPolicy()

    def report(self) -> ReportedModel:
        """What this slot says of itself."""
        supervisor, candidate = self.supervisor, self.record.candidate
        live = Live(
            serving=supervisor.serving,
            crash=supervisor.crash,
            given_up=supervisor.given_up and self.record.state is not State.ROLLBACK_FAILED,
            bytes_done=self.context.steps.received(candidate) if candidate is not None else 0,
            shadow=self.shadowing.figures(),
            cleared=supervisor.cleared_at is not None,
        )
        return report(self.record, live)

    def next_due(self) -> float | None:
        """When `tend` has something to do by the clock, in monotonic seconds."""
        times = (self.retry_at, self.supervisor.wake_at, self.watchdog.next_due(), self.shadowing.next_due())
        return min((time for time in times if time is not None), default=None)

    # --- what moves it ------------------------------------------------------------------------------------------------

    def take_up(self) -> None:
        """The agent has just started. What died with it is counted before anything is started: a version that takes
        the agent down with it must not do so for ever. What a cut of power ended is not counted."""
        if self.record.state in _LOADED and self.same_boot():
            self.save(self.record.model_copy(update={"attempts": self.record.attempts + 1}))
        self.watchdog.take_up()
        self.revive()

    def same_boot(self) -> bool:
        """Has this host been running since the record was written?"""
        return self.record.boot == self.context.boot

    def revive(self) -> None:
        """Starts the worker of what should answer, when none is there and it is due."""
        if self.record.state not in _UNTENDED:
            self.supervisor.tend(self.record.active)

    def restart(self) -> None:
        """What the journal says is under way is taken up: at a start, and when a refused write has left it undone."""
        state, attempts = self.record.state, self.record.attempts
        if state in _LOADED and exhausted(DEPLOYMENT, attempts, DeploymentCode.WORKER_CRASHED):
            text = f"the agent or its worker ended {attempts} times while it was loaded"
            self._give_up(Fault(code=DeploymentCode.ATTEMPTS_EXHAUSTED, message=text, attempts=attempts))
        else:
            self._enter(ON_RESTART[state], {})

    def want(self, wish: DesiredModel | None, generation: int) -> None:
        """Compares with what is desired. What is overtaken ends under its own name, then the wish is taken up."""
        for _ in range(3):
            taken = take(self.record, wish)
            if taken.event is None:
                if taken.adopt:
                    self._adopt(wish, generation)
                return
            if taken.event is not Event.WITHDRAWN and taken.adopt:
                self.supervisor.forgive()
            now = self.context.clock.now()
            self.move(taken.event, **changes_of(taken, self.record, wish, generation, now))
            if self.gone:
                return

    def tend(self) -> None:
        """Does what is due by the clock, and what a refused journal write left undone."""
        self.revive()
        now = self.context.clock.monotonic()
        if self.retry_at is not None:
            if now < self.retry_at:
                return
            self.retry_at = None
        if self._stuck:
            self._redo()
        elif self._retries:
            self.move(Event.RETRY_DUE, **({"fault": None} if self.record.state is State.WAITING else {}))
        elif self.supervisor.answers(self.record.active) and self.record.state in ROLLS_BACK:
            self.watchdog.came_up()
        elif self.record.state is State.STAGED:
            admit(self)
        elif self.record.state is State.DEFERRED:
            reconsider(self)
        elif self.record.state is State.SHADOWING:
            self.shadowing.look()
        elif self._expired_by_mistake:
            self.move(Event.RETRY_DUE)
        self.watchdog.tend()
        if self.record.state in _TELLS_PROGRESS and now >= self._tell_progress_at:
            self._tell_progress_at = now + PROGRESS_EVERY_S
            self.context.changed = True

    def postpone(self) -> None:
        """The journal refused: the disk is full or broken. Look again later."""
        if self._stuck or self._retries:
            self.retry_at = self.context.clock.monotonic() + JOURNAL_RETRY_S

    def died(self, worker: object, reason: str) -> None:
        """A worker of this model died."""
        if self.supervisor.died(worker, reason):
            crash = self.supervisor.crash
            code = crash.code if crash else DeploymentCode.WORKER_CRASHED
            self.context.publisher.publish("worker", phase="died", code=code, message=reason, slot=self.record)
            self.watchdog.died()

    def stop(self) -> list[Worker]:
        """The agent ends: no step goes on. The workers that are left, for the caller to close."""
        self.cancel()
        self.supervisor.stop_trying()
        self.watchdog.stop()
        return [self.supervisor.worker] if self.supervisor.worker is not None else []

    # --- for effects and watchdog -------------------------------------------------------------------------------------

    def move(self, event: Event, **changes: Any) -> None:
        """One step of the table: `changes` are written down together with the new state."""
        self._enter(advance(self.record.state, event), changes, event=event)

    def save(self, record: SlotRecord) -> None:
        """To the journal first. Raises TransientError, and then nothing has changed."""
        record = record.model_copy(update={"boot": self.context.boot})
        self.context.journal.save(record)
        self.context.fault = None
        self.record = self.context.records[record.model] = record
        self.context.changed = True

    def chosen(self) -> Choice:
        """The candidate. Raises PermanentError when there is none: a fault of the table."""
        if self.record.candidate is None:
            raise PermanentError("internal", f"slot {self.record.model} is {self.record.state} without a candidate")
        return self.record.candidate

    def cancel(self) -> None:
        """No step goes on, no candidate is kept, and the active version may be started again."""
        if self.task is not None:
            self.task.cancel()
            self.task = None
        if self.candidate is not None:
            self.shadowing.discard(self.candidate)
            self.candidate = None
        self.supervisor.resume()
        self.retry_at = None

    def step(
        self,
        work: Callable[[Any], Any],
        done: Callable[[Any], None],
        *,
        discard: Callable[[Any], None] | None = None,
        loads: bool = False,
    ) -> None:
        """Runs one step of the deployment in a pool."""
        if self.context.desired.expired(self.context.clock.now()):
            self.failed(PermanentError(DeploymentCode.DESIRED_EXPIRED, "the desired state has expired: nothing new"))
            return

        def succeeded(result: Any) -> None:
            self.task = None
            done(result)

        pool = self.context.loads if loads else self.context.network
        self.task = Task(work, succeeded, self.failed, discard).start(pool, self.context.put)

    def failed(self, error: AgentError, **changes: Any) -> None:
        """The step that ran has failed."""
        self.task = None
        came_further = isinstance(error, TransientError) and error.progress
        attempts = 1 if came_further else self.record.attempts + 1
        fault = Fault(code=error.code, message=error.message[:2000], attempts=attempts)
        if isinstance(error, PermanentError) or exhausted(DEPLOYMENT, attempts, error.code):
            self._give_up(fault, **changes)
            return
        clock = self.context.clock
        wished = error.retry_after_s if isinstance(error, TransientError) else None
        self.retry_delay = max(DEPLOYMENT.delay(attempts, clock.chance(), LONGEST_S.get(error.code)), wished or 0.0)
        until = clock.now() + timedelta(seconds=self.retry_delay)
        failed_in = phase_of(self.record)
        self.move(Event.RETRY_LATER, attempts=attempts, fault=fault, failed_in=failed_in, until=until, **changes)

    def try_once(self) -> None:
        """After a restart. Not what was judged: no restart makes a bad version good."""
        if self.record.fault is not None and self.record.fault.code not in JUDGED:
            self.move(Event.RETRY_DUE)

    def host_changed(self) -> None:
        """This host is another than it was: what did not run here may run now."""
        self.supervisor.hurry()
        if self.record.state is State.FAILED and self.record.fault is not None and self.record.fault.code in OF_HOST:
            self.move(Event.RETRY_DUE, fault=None, attempts=0)

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _stuck(self) -> bool:
        """In a state that works, with nothing that does: the journal refused to write the next one down."""
        state = self.record.state
        return self.task is None and (state in BUSY or (state is State.SHADOWING and not self.shadowing.runs))

    @property
    def _expired_by_mistake(self) -> bool:
        """The desired state has not expired after all: the clock was wrong, and has been set."""
        fault = self.record.fault
        if self.record.state is not State.FAILED or fault is None or fault.code != DeploymentCode.DESIRED_EXPIRED:
            return False
        return not self.context.desired.expired(self.context.clock.now())

    @property
    def _retries(self) -> bool:
        """Nothing runs, and the time of the next try is over."""
        if self.task is not None or self.retry_at is not None:
            return False
        state = self.record.state
        return state is State.WAITING or (state is State.ROLLBACK_FAILED and self.supervisor.given_up)

    def _redo(self) -> None:
        if self.record.state is State.SWITCHING and self.supervisor.answers(self.record.candidate):
            EFFECTS[Effect.SWITCH](self)
            return
        self.cancel()
        self.restart()

    def _enter(self, step: Step, changes: dict[str, Any], *, event: Event | None = None) -> None:
        """Writes the new state down, then does the effects."""
        if event is not None:
            now = self.context.clock.now()
            changes = {"since": now, "until": None, **changes}
            wish = changes.get("desired", self.record.desired)
            seconds = lasts(step.to, wish.policy if wish is not None else DeploymentPolicy())
            if seconds is not None:
                changes["until"] = now + timedelta(seconds=seconds)
        record = self.record.model_copy(update={"state": step.to, **changes})
        if record != self.record:
            self.save(record)
        if not record.on_trial():  # What serves is looked at while its successor comes: that will be compared with it.
            self.supervisor.tally.watching = record.state in _COMES
        for effect in step.effects:
            EFFECTS[effect](self)

    def _give_up(self, fault: Fault, **changes: Any) -> None:
        self.move(Event.GIVEN_UP, attempts=fault.attempts, fault=fault, failed_in=phase_of(self.record), **changes)

    def _adopt(self, wish: DesiredModel | None, generation: int) -> None:
        """Nothing moves; what came new with the wish (its policy) is looked at where it matters."""
        if (self.record.desired, self.record.generation) != (wish, generation):
            self.save(self.record.model_copy(update={"desired": wish, "generation": generation}))
