"""Keeps the active place of one slot alive: what should answer has a worker that runs.

At a start of the agent it brings back what served, from cache and journal, without asking anybody. A worker that
dies is started again, ever more slowly, up to a limit; then it is reported and waits for another desired state. Files
that are damaged or gone are pulled again, for as long as it takes. A load that fails otherwise is tried again, too: it
was loaded before, so the failure says as much of this moment as of the version. The machine may decide otherwise
(`agent.core.machine.trial.start_failed`). When the active place is given to another version (a rollback), what answers
goes on until the other's worker is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.core.backoff import BROKEN, REPAIR, RESTART, STABLE_AFTER_S, exhausted
from agent.core.fitness import choose
from agent.core.probation import Tally, expected_of
from agent.core.slots import Choice, WorkerReport
from agent.errors import AgentError, PermanentError
from agent.reconciler.context import Context, Task
from agent.worker.spec import Worker
from registry.contracts.backoff import Backoff
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import Strategy
from registry.contracts.device.messages import Fault


class WorkerSupervisor:
    """The worker of one slot's active place."""

    def __init__(
        self, context: Context, model: str, came_up: Callable[[], None], start_failed: Callable[[AgentError], None]
    ) -> None:
        """Both are called in the control thread; `start_failed` sees to what comes next, which may be `retry`."""
        self._context = context
        self._model = model
        self._announce = came_up
        self._start_failed = start_failed
        self.worker: Worker | None = None
        self.serving: WorkerReport | None = None
        self.tally = Tally()
        """What the version that serves, or served last, did since it began to."""
        self._counted: Choice | None = None
        """Whose the tally is."""
        self.crash: Fault | None = None
        self.given_up = False
        self.cleared_at: float | None = None
        """Since when nothing answers on purpose (monotonic), while a candidate is loaded in its place."""
        self.restarts = 0
        """Since the agent started; for health."""
        self.wake_at: float | None = None
        self._deaths = 0
        self._up_since = 0.0
        self._task: Task[Any] | None = None
        self._broken = False
        """Its files have to be pulled before it is started."""

    @property
    def starting(self) -> bool:
        """A worker for the active place is on its way."""
        return self._task is not None

    def answers(self, choice: Choice | None) -> bool:
        """Does a worker of this choice answer now?"""
        return self.serving is not None and choice is not None and self.serving.choice.loads_as(choice)

    def take(self, choice: Choice, worker: Worker, known: int = 0) -> float:
        """`worker` answers from now on; the one before is drained and ended. Seconds in which nothing answered.

        `known`: see `Tally.known`."""
        self.stop_trying()
        began, self.cleared_at = self.cleared_at, None
        self._serve(choice, worker, known)
        return 0.0 if began is None else self._context.clock.monotonic() - began

    def rebind(self, choice: Choice) -> None:
        """The worker that answers goes on under another rollout and other options."""
        if self.worker is not None and self.serving is not None and self.serving.choice.loads_as(choice):
            self._context.data_path.rebind(choice, self.worker)
            self.serving = self.serving.model_copy(update={"choice": choice})
            self._context.changed = True

    def clear(self, then: Callable[[], None]) -> None:
        """Nothing answers from now on; `then` runs when the worker has ended. Until `resume` nothing is started."""
        self.stop_trying()
        self.cleared_at = self._context.clock.monotonic()
        self._context.end(self._context.data_path.clear(self._model), then)
        self._forget_worker()

    def make_room(self, choice: Choice | None) -> None:
        """`choice` is what should answer from now on. Where there is no room for both, what does ends first."""
        self.stop_trying()
        if choice is None or self.worker is None or self.answers(choice):
            return
        if choose(Strategy.AUTO, choice.variant, self._context.steps.room(self.worker)) is Strategy.STOP_FIRST:
            self.clear(self.resume)

    def resume(self) -> None:
        """After `clear`: the active version may be started again."""
        self.cleared_at = None

    def withdraw(self, then: Callable[[], None]) -> None:
        """The model is not this device's any more; `then` runs when the last worker has ended."""
        self.stop_trying()
        self._context.end(self._context.data_path.withdraw(self._model), then)
        self._forget_worker()

    def died(self, worker: object, reason: str) -> bool:
        """A worker died. False when it was not this slot's active one."""
        if self.worker is None or worker is not self.worker:
            return False
        self._context.discard(self.worker)
        self._forget_worker()
        self.restarts += 1
        if self._context.clock.monotonic() - self._up_since > STABLE_AFTER_S:
            self._deaths = 0
        self._wait(DeploymentCode.WORKER_CRASHED, reason, RESTART)
        return True

    def forgive(self) -> None:
        """It is requested again: a worker that was given up gets another chance."""
        if self.given_up:
            self.given_up, self._deaths, self.crash = False, 0, None

    def hurry(self) -> None:
        """What it waited for may be there: the next start is tried at once."""
        self.wake_at = None

    def give_up(self) -> None:
        """Starts nothing by itself any more, until `stop_trying` or `forgive`."""
        self.stop_trying()
        self.given_up = True

    def stop_trying(self) -> None:
        """Gives up a start under way, and forgets what went wrong so far."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self.wake_at, self.crash, self.given_up, self._deaths, self._broken = None, None, False, 0, False

    def tend(self, choice: Choice | None) -> None:
        """Starts the worker of `choice` when it is due and none is there; None: nothing should answer."""
        if choice is None:
            if self.worker is not None:
                self.clear(lambda: None)
                self.resume()
            elif self._task is not None or self.crash is not None:
                self.stop_trying()
            return
        if self.answers(choice) or self._task is not None or self.given_up or self.cleared_at is not None:
            return
        if self.wake_at is not None and self._context.clock.monotonic() < self.wake_at:
            return
        self.wake_at = None
        context = self._context
        if self._broken:
            keep = context.kept()
            self._task = Task(
                lambda cancel: context.steps.download(choice, keep, cancel), self._healed, self._failed_once
            ).start(context.network, context.put)
            return
        measured = context.measured(choice)

        def load(cancel: Any) -> Worker:
            context.steps.verify(choice, cancel)
            return context.steps.warm(choice, measured, cancel)

        self._task = Task(load, lambda worker: self._came_up(choice, worker), self._failed, context.discard).start(
            context.loads, context.put
        )

    def _healed(self, _: None) -> None:
        self._task, self._broken = None, False

    def _came_up(self, choice: Choice, worker: Worker) -> None:
        self._task = None
        self.crash = None
        self._serve(choice, worker)
        self._announce()

    def _serve(self, choice: Choice, worker: Worker, known: int = 0) -> None:
        context = self._context
        if self._counted is None or not self._counted.loads_as(choice):
            self.tally = Tally(expected=expected_of(choice.parity), known=known)
        self._context.end(context.data_path.serve(choice, worker, self.tally), lambda: None)
        self.worker, self._counted = worker, choice
        self._up_since = context.clock.monotonic()
        self.serving = WorkerReport(
            choice=choice,
            backend=f"{worker.backend}/{worker.provider}",
            execution=worker.execution,
            max_batch=worker.max_batch,
            batching=worker.batching,
            since=context.clock.now(),
        )
        context.changed = True

    def _forget_worker(self) -> None:
        self.worker, self.serving = None, None
        self._context.changed = True

    def _failed(self, error: AgentError) -> None:
        self._task = None
        self._start_failed(error)

    def retry(self, error: AgentError) -> None:
        """A start failed so: another one follows, after a pause. Broken files are pulled first, at once."""
        first = not self._broken and self._deaths == 0
        self._broken = error.code in BROKEN
        self._failed_once(error)
        if self._broken and first:
            self.wake_at = None

    def _failed_once(self, error: AgentError) -> None:
        """What keeps it from starting may pass: the disk, the network, a driver that is not up yet."""
        self._task = None
        self._wait(error.code, error.message, REPAIR if self._broken or isinstance(error, PermanentError) else RESTART)

    def _wait(self, code: str, reason: str, pauses: Backoff) -> None:
        self._deaths += 1
        self._context.changed = True
        self.given_up = exhausted(pauses, self._deaths, code)
        if self.given_up:
            code, reason = (
                DeploymentCode.ATTEMPTS_EXHAUSTED,
                f"given up after {self._deaths} deaths, the last: {reason}",
            )
        else:
            clock = self._context.clock
            self.wake_at = clock.monotonic() + pauses.delay(self._deaths, clock.chance())
        self.crash = Fault(code=str(code), message=reason[:2000], attempts=self._deaths)
