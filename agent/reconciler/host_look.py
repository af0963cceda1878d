"""What this host is: looked at when the agent starts, and again and again. Drivers, chips and packages come and go."""

from __future__ import annotations

from collections.abc import Callable

from agent.core.backoff import HOST_LOOK_S, LOOK_AGAIN
from agent.errors import AgentError
from agent.reconciler.context import Context
from agent.reconciler.tasks import Task
from registry.contracts.fit.platforms import Platform


class HostLook:
    """Control thread only; the looks run in a pool."""

    def __init__(self, context: Context, changed: Callable[[], None]) -> None:
        """`changed` is called when the host is another than it was."""
        self._context = context
        self._changed = changed
        self.next_due: float | None = None
        """Monotonic time of the next look; None: one is under way."""
        self._unknown = 0
        """Looks in a row that left something unknown."""

    def begin(self) -> None:
        """The agent starts: what an earlier start found may do."""
        self._look(self._context.steps.facts)

    def tend(self) -> None:
        """Looks again when it is time."""
        if self.next_due is not None and self._context.clock.monotonic() >= self.next_due:
            self._look(self._context.steps.look_again)

    def take(self, facts: Platform) -> None:
        """This is what the host is now. Where it is another than before, the next report says so, the registry chooses
        again, and what had failed because of the host is tried again."""
        context, before = self._context, self._context.facts
        self._plan(unknown=bool(facts.failed()))
        context.facts = facts
        if before is not None and before.facts_digest() == facts.facts_digest():
            return
        context.changed = True
        if before is not None:
            self._changed()
        context.journal.put("facts_digest", facts.facts_digest().encode())

    def _look(self, work: Callable[[], Platform]) -> None:
        self.next_due = None
        Task(lambda _: work(), self.take, self._failed).start(self._context.network, self._context.put)

    def _plan(self, *, unknown: bool) -> None:
        self._unknown = self._unknown + 1 if unknown else 0
        pause = LOOK_AGAIN.delay(self._unknown, self._context.clock.chance()) if unknown else HOST_LOOK_S
        self.next_due = self._context.clock.monotonic() + pause

    def _failed(self, error: AgentError) -> None:
        self._plan(unknown=True)
        self._context.publisher.publish("agent", phase="facts", code=error.code, message=error.message)
