"""What the reconciler tells the world: events, and the reported state after each change.

Events go through the data path's outbox. While the broker is away copies of the newest ones are kept here for the
report over HTTP; the registry drops what it gets twice.
"""

from __future__ import annotations

import logging
from collections import deque
from uuid import uuid4

from agent.core.slots import SlotRecord
from agent.errors import AgentError
from agent.reconciler.ports import Clock, DataPath, Journal
from registry.contracts.device.messages import Event
from registry.contracts.topics import Topics

log = logging.getLogger(__name__)
MAX_UNSENT = 500
MAX_MESSAGE = 2000
REPEAT_AFTER_S = 60.0
"""The same fault again is no new event before that."""


class EventPublisher:
    """Control thread only."""

    def __init__(self, device: str, topics: Topics, data_path: DataPath, journal: Journal, clock: Clock) -> None:
        self._topic = topics.device(device, "events")
        self._data_path = data_path
        self._journal = journal
        self._clock = clock
        self.unsent: deque[Event] = deque(maxlen=MAX_UNSENT)
        self.connected = False
        self._last_fault: tuple[str, str, str] | None = None
        self._fault_again_at = 0.0

    def publish(
        self, kind: str, *, phase: str, code: str = "", message: str = "", slot: SlotRecord | None = None
    ) -> None:
        """One event, to the log and to the registry. A disk that refuses it is logged: nothing waits for events."""
        if slot is None and code and self._is_repeated((phase, code, message)):
            return
        desired = slot.desired if slot else None
        model = slot.model if slot else None
        log.log(logging.WARNING if code else logging.INFO, "%s", _line(kind, model, phase, code, message))
        try:
            event = Event(
                event_id=uuid4().hex,
                seq=self._journal.next_number("event_seq"),
                at=self._clock.now(),
                kind=kind,
                model=model,
                version=desired.version if desired else None,
                generation=slot.generation if slot else 0,
                rollout=desired.rollout if desired else None,
                phase=phase,
                code=code[:64],
                message=message[:MAX_MESSAGE],
            )
            self._data_path.publish_durable(self._topic, event.canonical())
        except AgentError as error:
            log.error("an event could not be kept: %s", error)  # noqa: TRY400 - expected, the text says all
        else:
            if not self.connected:
                self.unsent.append(event)

    def _is_repeated(self, fault: tuple[str, str, str]) -> bool:
        now = self._clock.monotonic()
        if fault == self._last_fault and now < self._fault_again_at:
            return True
        self._last_fault, self._fault_again_at = fault, now + REPEAT_AFTER_S
        return False


def _line(kind: str, model: str | None, phase: str, code: str, message: str) -> str:
    return ": ".join(part for part in (f"{kind} {model or ''}".strip(), phase, code, message) if part)
