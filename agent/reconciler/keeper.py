"""Keeps the active place of one slot alive: what should answer has a worker that runs.

At a start of the agent it brings back what served, from cache and journal, without asking anybody. A worker that
dies is started again, ever more slowly, up to a limit; then it is reported and waits for a new desired generation.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.core.backoff import RESTART, STABLE_AFTER_S
from agent.core.slots import Choice, Serving
from agent.errors import AgentError, PermanentError
from agent.reconciler.context import Context
from agent.reconciler.ports import LoadedWorker
from agent.reconciler.tasks import Task
from registry.contracts.codes import DeploymentCode
from registry.contracts.messages import Fault

BROKEN = frozenset({DeploymentCode.DIGEST_MISMATCH, DeploymentCode.DISK_ERROR})
"""The files in the cache are gone or wrong: starting them again is no use."""


class Keeper:
    """The worker of one slot's active place."""

    def __init__(self, context: Context, lost: Callable[[AgentError], None]) -> None:
        """`lost` is called when the active artifact cannot serve here any more and has to be deployed anew."""
        self._context = context
        self._lost = lost
        self.worker: LoadedWorker | None = None
        self.serving: Serving | None = None
        self.crash: Fault | None = None
        self.given_up = False
        self.restarts = 0
        """Since the agent started; for health."""
        self.wake_at: float | None = None
        self._deaths = 0
        self._up_since = 0.0
        self._task: Task[LoadedWorker] | None = None

    @property
    def starting(self) -> bool:
        """A worker for the active place is on its way."""
        return self._task is not None

    def take(self, choice: Choice, worker: LoadedWorker) -> None:
        """`worker` answers from now on; the one before is drained and ended."""
        self.stop_trying()
        leaving = self._context.data_path.serve(choice, worker)
        self._context.end(leaving, lambda: None)
        self._now_serves(worker)

    def withdraw(self, model: str, then: Callable[[], None]) -> None:
        """Nobody answers from now on; `then` runs when the last worker has ended."""
        self.stop_trying()
        self._context.end(self._context.data_path.withdraw(model), then)
        self.worker, self.serving, self.crash = None, None, None

    def died(self, worker: object, reason: str) -> bool:
        """A worker died. False when it was not this slot's active one."""
        if self.worker is None or worker is not self.worker:
            return False
        self._context.discard(self.worker)
        self.worker, self.serving = None, None
        self.restarts += 1
        if self._context.clock.monotonic() - self._up_since > STABLE_AFTER_S:
            self._deaths = 0
        self._failed_once(DeploymentCode.WORKER_CRASHED, reason)
        return True

    def forgive(self) -> None:
        """A person or the registry asked anew: start from the beginning."""
        if self.given_up:
            self.given_up, self._deaths, self.crash = False, 0, None

    def stop_trying(self) -> None:
        """Gives up a start under way; another worker takes the place."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self.wake_at, self.crash, self.given_up, self._deaths = None, None, False, 0

    def tend(self, choice: Choice | None) -> None:
        """Starts the worker of `choice` when it is due and none is there."""
        if choice is None or self.worker is not None or self._task is not None or self.given_up:
            return
        if self.wake_at is not None and self._context.clock.monotonic() < self.wake_at:
            return
        self.wake_at = None
        context = self._context
        self._task = Task(
            context.load_task(choice), lambda worker: self._came_up(choice, worker), self._failed, context.discard
        ).start(context.loads, context.put)

    def _came_up(self, choice: Choice, worker: LoadedWorker) -> None:
        self._task = None
        self.crash = None
        self._context.end(self._context.data_path.serve(choice, worker), lambda: None)
        self._now_serves(worker)

    def _now_serves(self, worker: LoadedWorker) -> None:
        self.worker = worker
        self._up_since = self._context.clock.monotonic()
        self.serving = Serving(
            backend=f"{worker.backend}/{worker.provider}",
            execution=worker.execution,
            max_batch=worker.max_batch,
            since=self._context.clock.now(),
        )
        self._context.changed = True

    def _failed(self, error: AgentError) -> None:
        self._task = None
        if error.code in BROKEN or isinstance(error, PermanentError):
            self._lost(error)
        else:
            self._failed_once(error.code, error.message)

    def _failed_once(self, code: str, reason: str) -> None:
        self._deaths += 1
        self._context.changed = True
        self.given_up = RESTART.exhausted(self._deaths, code)
        if self.given_up:
            code, reason = (
                DeploymentCode.ATTEMPTS_EXHAUSTED,
                f"given up after {self._deaths} deaths, the last: {reason}",
            )
        else:
            clock = self._context.clock
            self.wake_at = clock.monotonic() + RESTART.delay(self._deaths, clock.chance())
        self.crash = Fault(code=str(code), message=reason[:2000], attempts=self._deaths)
