"""The same exchange over HTTP: asks for the desired state and brings reports, while the broker is away.

With a broker it still asks now and then, so that a bridge that stopped does not cut a device off. One request at a
time; a registry that is away costs nothing but the try. It is asked at once, but not again within ASK_PAUSE_S, when the
broker brings what only the registry itself can say.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agent.errors import AgentError
from agent.reconciler.context import Context, Task
from agent.reconciler.ports import Pool, Uplink
from registry.contracts.device.messages import Health, Reported
from registry.contracts.fit.platforms import Platform

if TYPE_CHECKING:
    from registry.contracts.api.devices import DeviceReports

log = logging.getLogger(__name__)
POLLS_WHILE_CONNECTED = 10
"""With a broker only every so many polls asks."""
ASK_PAUSE_S = 2.0
_SENT = "facts_sent"


@dataclass
class _Answer:
    document: tuple[bytes, str | None, str] | None
    facts_sent: str | None = None
    facts_wanted: bool = False
    """The registry does not have them."""
    reports_sent: int = 0
    refused: AgentError | None = None
    """Why facts or reports were not taken."""


class Exchange:
    """Control thread only; the requests run in `pool`."""

    def __init__(self, context: Context, uplink: Uplink, pool: Pool) -> None:
        self._context = context
        self._uplink = uplink
        self._pool = pool
        self._task: Task[_Answer] | None = None
        self._etag: str | None = None
        self._polls = 0
        self._asked_last = float("-inf")
        self._asked_at = ("", 0)
        """Epoch and generation that were known when the request under way began."""
        self.reachable: bool | None = None
        """Did the last request get through? None before the first."""
        self.answered_at: datetime | None = None
        """When one did last."""

    @property
    def facts_are_known(self) -> bool:
        """The registry has this host's facts: reports may leave them out."""
        return self._context.journal.get(_SENT) == self._context.facts_digest().encode()

    def forget_facts(self) -> None:
        """The registry says that it does not have them: whatever was sent before."""
        self._context.journal.put(_SENT, b"")
        self._context.changed = True

    def poll(self, reported: Reported | None, health: Health | None) -> None:
        """Asks and tells, when it is time."""
        self._polls += 1
        due = not self._context.publisher.connected or self._polls % POLLS_WHILE_CONNECTED == 1
        if self._task is None and due:
            self._begin(reported, health)

    def ask(self, reported: Reported | None, health: Health | None) -> bool:
        """Asks now. False: not yet, it has just been asked."""
        if self._task is not None or self._context.clock.monotonic() < self._asked_last + ASK_PAUSE_S:
            return False
        self._begin(reported, health)
        return True

    def _begin(self, reported: Reported | None, health: Health | None) -> None:
        self._asked_last = self._context.clock.monotonic()
        facts = None if self._context.facts is None or self.facts_are_known else self._context.facts
        reports = None
        if not self._context.publisher.connected:
            from registry.contracts.api.devices import DeviceReports  # noqa: PLC0415 - see ports

            events = tuple(self._context.publisher.unsent)
            reports = DeviceReports(reported=reported, health=(health,) if health else (), events=events)
        etag = self._etag
        self._asked_at = self._seen()
        self._task = Task(lambda _: self._exchange(etag, facts, reports), self._done, self._failed).start(
            self._pool, self._context.put
        )

    def cancel(self) -> None:
        """The agent ends."""
        if self._task is not None:
            self._task.cancel()

    def _exchange(self, etag: str | None, facts: Platform | None, reports: DeviceReports | None) -> _Answer:
        """In the pool. What the registry does not take must not keep its desired state from us."""
        answer = _Answer(self._uplink.desired(etag))
        try:
            if facts is not None:
                self._uplink.put_facts(facts)
                answer.facts_sent = facts.facts_digest()
            if reports is not None:
                answer.facts_wanted = self._uplink.post_reports(reports)
                answer.reports_sent = len(reports.events)
        except AgentError as error:
            answer.refused = error
        return answer

    def _done(self, answer: _Answer) -> None:
        self._task = None
        if not self.reachable:
            log.info("the registry answers")
        self.reachable, self.answered_at = True, self._context.clock.now()
        if answer.refused is not None:
            log.warning("the registry does not take facts or reports: %s", answer.refused)
        unsent: Any = self._context.publisher.unsent
        for _ in range(min(answer.reports_sent, len(unsent))):
            unsent.popleft()
        if answer.document is not None and self._seen() == self._asked_at:
            data, etag, trace = answer.document
            self._context.offer(data, from_registry=True, traceparent=trace)
            self._etag = etag  # only now: what the disk refused is asked for again
        # Else the broker has brought a newer one meanwhile; an older answer is no sign of anything.
        if answer.facts_sent:
            self._context.journal.put(_SENT, answer.facts_sent.encode())
        elif answer.facts_wanted:
            self.forget_facts()
            self._context.ask = True

    def _seen(self) -> tuple[str, int]:
        return self._context.desired.epoch, self._context.desired.generation

    def _failed(self, error: AgentError) -> None:
        self._task = None
        if self.reachable is not False:
            log.warning("the registry cannot be asked: %s", error)
        self.reachable = False
