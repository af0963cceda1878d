"""The steps of one slot's deployment: at most one runs, in a pool; its outcome goes to the machine, which decides.

It owns what is being installed: the step that runs, the candidate's worker, the shadow in which that is compared.
INVARIANT: a candidate is switched to, or closed, only when its shadow has let go of it. Ending a shadow waits for the
comparison that runs, so it is done in the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.core.fitness import choose, need_of
from agent.core.lifecycle import Effect
from agent.core.local_policy import SteadySince, Wait
from agent.core.machine import install
from agent.core.machine.decision import Decision, Situation, Upkeep, chosen, policy_of, step_failed
from agent.core.machine.trial import known_in, repair_failed
from agent.core.probation import ProbationVerdict
from agent.core.slots import Choice, SlotRecord
from agent.errors import AgentError, PermanentError, TransientError
from agent.reconciler.context import Context, Task
from agent.reconciler.ports import ShadowRun
from agent.reconciler.supervisor import WorkerSupervisor
from agent.worker.spec import Worker
from registry.contracts.catalogue.manifest import Parity
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import ShadowFigures, Strategy

COMPARE_EVERY_S = 1.0

Decider = Callable[[SlotRecord, Situation], Decision | None]
"""What to do now that something has happened: a function of `agent.core.machine` with what happened filled in."""


class Installation:
    """Control thread only."""

    def __init__(self, context: Context, supervisor: WorkerSupervisor, decide: Callable[[Decider], None]) -> None:
        """`decide` asks the machine about the slot as it is, and carries out what it decides."""
        self._context = context
        self._supervisor = supervisor
        self._decide = decide
        self._task: Task[Any] | None = None
        self._candidate: Worker | None = None
        """Loaded and warm, not yet with the data path."""
        self._shadow: ShadowRun | None = None
        self._shadow_began = 0.0
        """Monotonic, as the next."""
        self._compare_at = 0.0
        self._offered = SteadySince()

    @property
    def busy(self) -> bool:
        """A step runs."""
        return self._task is not None

    @property
    def comparing(self) -> bool:
        """The candidate's shadow runs."""
        return self._shadow is not None

    def figures(self) -> ShadowFigures | None:
        """What the shadow under way found so far; None: there is none."""
        return self._shadow.figures() if self._shadow is not None else None

    def next_due(self) -> float | None:
        """When the shadow is looked at again, in monotonic seconds."""
        return self._compare_at if self._shadow is not None and self._task is None else None

    def cancel(self) -> None:
        """No step goes on, and no candidate is kept."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._candidate is not None:
            self._discard(self._candidate)
            self._candidate = None

    # --- the effects, each a `Decider` ------------------------------------------------------------------------------

    def resolve(self, record: SlotRecord, at: Situation) -> Decision | None:
        """Fetches the manifest and chooses; then it is asked whether it may be downloaded now."""
        model, desired, steps = record.model, record.desired, self._context.steps
        if desired is None:
            raise PermanentError("internal", f"slot {model} resolves without a desired state")

        def resolved(now: SlotRecord, at: Situation, choice: Choice) -> Decision:
            return install.resolved(now, at, choice, self._may_download(now, choice))

        return self._step("resolve", record, at, lambda cancel: steps.resolve(model, desired, cancel), resolved)

    def download(self, record: SlotRecord, at: Situation) -> Decision | None:
        """Everything that is not here yet."""
        choice, keep, steps = chosen(record), self._context.kept(), self._context.steps
        return self._step("pull", record, at, lambda cancel: steps.download(choice, keep, cancel), install.step_done)

    def verify(self, record: SlotRecord, at: Situation) -> Decision | None:
        """Every byte."""
        choice, steps = chosen(record), self._context.steps
        return self._step(
            "verify", record, at, lambda cancel: steps.verify(choice, cancel), install.step_done, loads=True
        )

    def admit(self, record: SlotRecord, at: Situation) -> Decision | None:
        """May it be loaded for the switch?"""
        return install.admitted(record, at, self._may_switch(record))

    def reconsider(self, record: SlotRecord, at: Situation) -> Decision | None:
        """Does what holds a deferred deployment up still hold?"""
        choice = chosen(record)
        missing = choice.variant.size > self._context.steps.received(choice)
        wait = self._may_download(record, choice) if missing else self._may_switch(record)
        return install.reconsidered(record, at, wait)

    def warm(self, record: SlotRecord, at: Situation) -> Decision | None:
        """Loads the candidate: beside the active version, or in its place where there is no room for both."""
        choice, active = chosen(record), self._supervisor.worker
        if active is None:
            return self._load(record, at)
        room = self._context.steps.room(active)
        how = choose(policy_of(record).strategy, choice.variant, room)
        if how is None:
            text = (
                f"{choice.version} needs {need_of(choice.variant, room)} bytes beside the active version and "
                f"{room.free} are free: strategy stop_first or auto would end that first"
            )
            return step_failed(record, at, PermanentError(DeploymentCode.MEMORY_INSUFFICIENT, text))
        if how is Strategy.STOP_FIRST:
            self._supervisor.clear(self._pending(self._load))
            return None
        return self._load(record, at)

    def shadow(self, record: SlotRecord, at: Situation) -> Decision | None:
        """Begins to ask the candidate a share of what the active version is asked."""
        policy = policy_of(record).shadow
        if self._candidate is None or policy is None:  # Only with a broken table: from the beginning.
            return install.restarted(record, at)
        self._shadow = self._context.data_path.shadow(chosen(record), self._candidate, policy.share)
        self._shadow_began = at.monotonic
        return self.compare(record, at)

    def compare(self, record: SlotRecord, at: Situation) -> Decision | None:
        """Is the shadow over?"""
        run = self._shadow
        if run is None or self._task is not None:
            return None
        self._compare_at = at.monotonic + COMPARE_EVERY_S
        if run.failure is not None:
            return step_failed(record, at, run.failure)
        verdict = install.shadow_verdict(record, at, run.figures(), at.monotonic - self._shadow_began)
        return None if verdict is None else self._end_shadow(record, at, run, verdict)

    def switch(self, record: SlotRecord, at: Situation) -> Decision:
        """The candidate answers from now on."""
        trial, gap = install.new_trial(record, at), None
        if not at.answers(chosen(record)):
            worker, self._candidate = self._candidate, None
            if worker is None:  # Written down as switching, but the worker is gone: from the beginning.
                return install.restarted(record, at)
            gap = self._supervisor.take(install.bound(record), worker, known_in(trial.before))
        return install.switched(record, at, trial, gap)

    def repair(self, record: SlotRecord, _: Situation) -> None:
        """Files of what should answer that are gone or wrong are pulled again; what is there needs no network."""
        choice, keep, steps = record.active, self._context.kept(), self._context.steps
        if choice is None:
            raise PermanentError("internal", f"slot {record.model} has nothing to go back to")

        def repaired(now: SlotRecord, _at: Situation, _: None) -> None:
            if not self._supervisor.starting:
                self._supervisor.stop_trying()
                self._supervisor.tend(now.active)

        self._start("repair", record, lambda cancel: steps.download(choice, keep, cancel), repaired, repair_failed)

    def retire(self, _record: SlotRecord, _: Situation) -> None:
        """Ends the last worker of the model."""
        self._supervisor.withdraw(self._pending(install.step_done))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _step(
        self,
        name: str,
        record: SlotRecord,
        at: Situation,
        work: Callable[[Any], Any],
        done: Callable[[SlotRecord, Situation, Any], Decision | None],
        *,
        discard: Callable[[Any], None] | None = None,
        loads: bool = False,
    ) -> Decision | None:
        """Runs one step in a pool, unless nothing new may be installed."""
        if at.desired_expired:
            text = "the desired state has expired: nothing new"
            return step_failed(record, at, PermanentError(DeploymentCode.DESIRED_EXPIRED, text))
        if at.stale:
            text = f"nothing new is installed: {at.stale}"
            return step_failed(record, at, TransientError(DeploymentCode.METADATA_STALE, text))
        self._start(name, record, work, done, discard=discard, loads=loads)
        return None

    def _start(
        self,
        name: str,
        record: SlotRecord,
        work: Callable[[Any], Any],
        done: Callable[[SlotRecord, Situation, Any], Decision | None],
        failed: Callable[[SlotRecord, Situation, AgentError], Decision] = step_failed,
        *,
        discard: Callable[[Any], None] | None = None,
        loads: bool = False,
    ) -> None:
        traced = self._context.traced(name, record, work)
        task = self._task = Task(
            traced, lambda result: self._ended(done, result), lambda error: self._ended(failed, error), discard
        )
        task.start(self._context.loads if loads else self._context.network, self._context.put)

    def _pending(self, done: Decider) -> Callable[[], None]:
        """A step that others do: it runs until what is returned is called, in the control thread."""
        task = self._task = Task[None](
            lambda _: None, lambda _: self._ended(lambda now, at, _: done(now, at), None), lambda _: None
        )
        return lambda: task.succeed(None)

    def _ended(self, then: Callable[[SlotRecord, Situation, Any], Decision | None], outcome: Any) -> None:
        self._task = None
        self._decide(lambda now, at: then(now, at, outcome))

    def _load(self, record: SlotRecord, at: Situation) -> Decision | None:
        context, choice = self._context, chosen(record)
        measured = context.measured(choice)

        def work(cancel: Any) -> tuple[Worker, Parity | None]:
            worker = context.steps.warm(choice, measured, cancel)
            if choice.golden is None:
                return worker, None
            try:
                return worker, context.steps.compare(choice, worker, cancel)
            except BaseException:
                worker.close(context.drain_timeout_s)
                raise

        def warmed(now: SlotRecord, at: Situation, result: tuple[Worker, Parity | None]) -> Decision:
            self._candidate, parity = result
            if parity is None or parity.passed:
                context.keep_measure(choice, self._candidate)
            return install.warmed(now, at, parity, self._may_switch(now))

        return self._step(
            "load", record, at, work, warmed, discard=lambda result: context.discard(result[0]), loads=True
        )

    def _end_shadow(
        self, record: SlotRecord, at: Situation, run: ShadowRun, verdict: ProbationVerdict
    ) -> Decision | None:
        timeout_s = self._context.drain_timeout_s

        def ended(now: SlotRecord, at: Situation, idle: bool) -> Decision:
            if not idle:
                late = "the candidate did not end its last comparison in time"
                return step_failed(now, at, run.failure or TransientError(DeploymentCode.WORKER_CRASHED, late))
            self._shadow = None
            return install.compared(now, at, verdict, run.figures(), self._may_switch(now))

        return self._step("compare", record, at, lambda _: run.end(timeout_s), ended, loads=True)

    def _discard(self, worker: Worker) -> None:
        """The candidate is not needed any more: ends its shadow, if there is one, then the worker."""
        context, run, self._shadow = self._context, self._shadow, None
        if run is None:
            context.discard(worker)
            return

        def end() -> None:
            try:
                run.end(context.drain_timeout_s)
            finally:
                worker.close(context.drain_timeout_s)

        context.loads.submit(end)

    def _may_download(self, record: SlotRecord, choice: Choice) -> Wait | None:
        """THE place where this host is asked about a download."""
        missing = choice.variant.size - self._context.steps.received(choice)
        return self._context.host.may_download(record.model, policy_of(record), self._offered_at(record), missing)

    def _may_switch(self, record: SlotRecord) -> Wait | None:
        """THE place where this host is asked about a switch."""
        return self._context.host.may_switch(record.model, policy_of(record), self._offered_at(record))

    def _offered_at(self, record: SlotRecord) -> Any:
        """By a wall clock that was not set since this agent started: a jump neither ends a wait nor stretches it."""
        now = self._context.clock.now()
        stamp = record.offered_at
        return now if stamp is None else self._offered.at(stamp, now, self._context.clock.monotonic())


INSTALLS: dict[Effect | Upkeep, Callable[[Installation, SlotRecord, Situation], Decision | None]] = {
    Effect.RESOLVE: Installation.resolve,
    Effect.DOWNLOAD: Installation.download,
    Effect.VERIFY: Installation.verify,
    Effect.ADMIT: Installation.admit,
    Upkeep.RECONSIDER: Installation.reconsider,
    Effect.WARM: Installation.warm,
    Effect.SHADOW: Installation.shadow,
    Upkeep.COMPARE: Installation.compare,
    Effect.SWITCH: Installation.switch,
    Effect.REPAIR: Installation.repair,
    Effect.RETIRE: Installation.retire,
}
"""Commands that the installation carries out: each leads to a decision at once, or when its step ends."""
