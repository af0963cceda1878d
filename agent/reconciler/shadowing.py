"""The shadow of one slot's candidate: begun, looked at once a second, ended before anything else happens to the worker.

INVARIANT: a candidate is switched to, or closed, only when its shadow has let go of it. Ending a shadow waits for the
comparison that runs, so it is done in the pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.probation import Verdict
from agent.core.shadowing import judge
from agent.errors import TransientError
from agent.reconciler import installing
from agent.reconciler.ports import ShadowRun
from agent.worker.spec import Worker
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import ShadowFigures
from registry.contracts.device.messages import Fault

if TYPE_CHECKING:
    from agent.reconciler.slot import Slot

LOOK_EVERY_S = 1.0


class Shadowing:
    """Of one slot; control thread only."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._run: ShadowRun | None = None
        self._began = 0.0
        """Monotonic."""
        self._look_at = 0.0

    @property
    def runs(self) -> bool:
        """The candidate is being compared."""
        return self._run is not None

    def figures(self) -> ShadowFigures | None:
        """What the shadow under way found so far; None: there is none."""
        return self._run.figures() if self._run is not None else None

    def next_due(self) -> float | None:
        """When it wants to look again."""
        return self._look_at if self._run is not None and self._slot.task is None else None

    def begin(self) -> None:
        """The effect SHADOW."""
        slot, policy = self._slot, self._slot.policy.shadow
        if slot.candidate is None or policy is None:  # Only with a broken table: from the beginning.
            slot.restart()
            return
        self._run = slot.context.data_path.shadow(slot.chosen(), slot.candidate, policy.share)
        self._began = slot.context.clock.monotonic()
        self.look()

    def look(self) -> None:
        """Is it over? On a timer; the policy that holds now counts."""
        slot, run = self._slot, self._run
        if run is None or slot.task is not None:
            return
        now = slot.context.clock.monotonic()
        self._look_at = now + LOOK_EVERY_S
        if run.failure is not None:
            slot.failed(run.failure)
            return
        policy = slot.policy.shadow
        if policy is None:
            verdict: Verdict | None = Verdict("", "the shadow was called off")
        elif slot.record.active is None or slot.supervisor.given_up:
            verdict = Verdict("", "the shadow ended early: nothing serves beside it any more")
        else:
            verdict = judge(policy, run.figures(), over=now >= self._began + policy.duration_s)
        if verdict is not None:
            self._end(run, verdict)

    def discard(self, worker: Worker) -> None:
        """The candidate is not wanted any more: ends its shadow, if there is one, then the worker."""
        context, run, self._run = self._slot.context, self._run, None
        if run is None:
            context.discard(worker)
            return
        left = run

        def end() -> None:
            try:
                left.end(context.drain_timeout_s)
            finally:
                worker.close(context.drain_timeout_s)

        context.loads.submit(end)

    def _end(self, run: ShadowRun, verdict: Verdict) -> None:
        timeout_s = self._slot.context.drain_timeout_s
        self._slot.step(lambda _: run.end(timeout_s), lambda idle: self._ended(run, verdict, idle), loads=True)

    def _ended(self, run: ShadowRun, verdict: Verdict, idle: bool) -> None:
        slot = self._slot
        if not idle:
            late = "the candidate did not end its last comparison in time"
            slot.failed(run.failure or TransientError(DeploymentCode.WORKER_CRASHED, late))
            return
        self._run = None
        figures = run.figures()
        if verdict.code:
            installing.bar(slot, slot.chosen(), verdict.code, verdict.message, shadow=figures)
        else:
            installing.go_on(slot, shadow=figures, fault=Fault(code="", message=verdict.message))
