"""Between the data thread and the outbox: what could not be delivered goes in once a turn, what waits comes out in
order, a few at a time, and is removed when the broker has acknowledged it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from agent.adapters.outbox import RESULT, NewMessage, Outbox
from agent.dataplane.outbound import Outgoing
from agent.dataplane.packets import text
from agent.errors import TransientError

WINDOW = 16
"""Messages from the outbox that are unacknowledged at once; replies must not wait behind a long outbox."""
_log = logging.getLogger(__name__)


class Spooling:
    """INVARIANT: `end_turn` runs before anything is flushed, so what it acknowledges is on disk first."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self._new: list[NewMessage] = []
        self._sent: set[int] = set()
        self._acknowledged: list[int] = []
        self._cursor = 0
        self.lost = 0
        """Messages that the disk did not take."""

    def pending(self) -> bool:
        """As Spool says."""
        return bool(self._new) or self.outbox.rows > 0

    def spool(self, topic: bytes, properties: bytes, payload: bytes) -> None:
        """As Spool says."""
        self._new.append(NewMessage(RESULT, topic[2:], properties, payload))

    def end_turn(self) -> None:
        """Brings the outbox up to date: at most one transaction for what is new, one for what has arrived."""
        if self._new:
            new, self._new = self._new, []
            try:
                self.outbox.add(new)
            except TransientError as error:
                self.lost += len(new)
                _log.error("%d results are lost: %s", len(new), error)
        if self._acknowledged:
            done, self._acknowledged = self._acknowledged, []
            try:
                self.outbox.remove(done)
            except TransientError as error:
                _log.error("%d messages stay in the outbox and will be sent again: %s", len(done), error)
            self._sent.difference_update(done)

    def replay(self, send: Callable[[Outgoing], None]) -> None:
        """Sends what waits, as far as the window allows."""
        if self.outbox.rows <= len(self._sent) or len(self._sent) >= WINDOW:
            return
        for message in self.outbox.after(self._cursor, WINDOW - len(self._sent)):
            self._cursor = message.id
            self._sent.add(message.id)
            settled = self._settler(message.id)
            send(Outgoing(text(message.topic), message.properties, message.payload, settled=settled))

    def _settler(self, id_: int) -> Callable[[], None]:
        return lambda: self._acknowledged.append(id_)

    def connection_closed(self) -> None:
        """Whatever was sent and not acknowledged is sent again on the next connection, from the oldest on."""
        self._cursor = 0
        self._sent.clear()
