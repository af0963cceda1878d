"""Between the data thread and the outbox: what could not be delivered goes in once a turn, what waits comes out in
order, a few at a time, and is removed when the broker has acknowledged it.

What the disk refuses stays here, unacknowledged, and is offered to it again every RETRY_S; with a connection, and
nothing older on disk, it goes to the broker instead. Requests that are owed an acknowledgement are as many as the
Receive Maximum allows, so they need no other bound; of results that nobody is owed the oldest are dropped, and counted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from agent.adapters.disk.outbox import RESULT, NewMessage, Outbox
from agent.dataplane.mqtt.outbound import Ack, Outgoing
from agent.errors import TransientError
from registry.contracts.counters import Counters
from registry.inference.packets import text

WINDOW = 16
"""Messages from the outbox that are unacknowledged at once; replies must not wait behind a long outbox."""
RETRY_S = 1.0
"""After a refusal the disk is left alone for so long; as often it is looked whether a muted topic may get its own."""
MAX_OWED_TO_NOBODY = 4096
"""Results without an acknowledgement that wait here while the disk refuses."""
_log = logging.getLogger(__name__)


class Spooling:
    """INVARIANT: `end_turn` runs before anything is flushed, so what it acknowledges is on disk first."""

    def __init__(self, outbox: Outbox, counters: Counters, clock: Callable[[], float] = time.monotonic) -> None:
        self.outbox = outbox
        self._counters = counters
        self._clock = clock
        self._new: list[Outgoing] = []
        self._refused_until: float | None = None
        """The disk has refused, and is asked again then; None: it takes what comes."""
        self._sent: set[int] = set()
        self._acknowledged: list[int] = []
        self._cursor = 0
        self._look_again_at: float | None = None
        """When rows that were passed over are looked at again."""

    def pending(self) -> bool:
        """True: there are messages, after which newer results have to wait."""
        return bool(self._new) or self.outbox.rows > 0

    def unwritten(self) -> int:
        """Messages that the disk does not take now."""
        return len(self._new) if self._refused_until is not None else 0

    def spool(self, message: Outgoing) -> None:
        """Written at the end of the turn, and acknowledged then."""
        self._new.append(message)

    def end_turn(self, settle: Callable[[Ack], None]) -> None:
        """Brings the outbox up to date: at most one transaction for what is new, one for what has arrived.

        `settle`: sends the acknowledgement of a request whose answer is on disk now.
        """
        if self._new and (self._refused_until is None or self._clock() >= self._refused_until):
            self._write(settle)
        if self._acknowledged:
            done, self._acknowledged = self._acknowledged, []
            try:
                self.outbox.remove(done)
            except TransientError as error:
                _log.error("%d messages stay in the outbox and will be sent again: %s", len(done), error)
            self._sent.difference_update(done)

    def _write(self, settle: Callable[[Ack], None]) -> None:
        try:
            self.outbox.add([NewMessage(RESULT, each.topic[2:], each.properties, each.payload) for each in self._new])
        except TransientError as error:
            if self._refused_until is None:
                _log.error("%d results wait for the disk, unacknowledged: %s", len(self._new), error)
            self._refused_until = self._clock() + RETRY_S
            self._drop_owed_to_nobody()
            return
        self._refused_until = None
        new, self._new = self._new, []
        for message in new:
            if message.ack is not None:
                settle(message.ack)

    def _drop_owed_to_nobody(self) -> None:
        excess = sum(each.ack is None for each in self._new) - MAX_OWED_TO_NOBODY
        if excess <= 0:
            return
        self._counters.add("outbox_dropped", excess)
        kept = []
        for message in self._new:
            if message.ack is None and excess > 0:
                excess -= 1
            else:
                kept.append(message)
        self._new = kept

    def finish(self) -> None:
        """The agent ends: a last try. What the disk refuses still was not acknowledged, or is lost, and counted."""
        self._refused_until = None
        self.end_turn(lambda _: None)
        lost = sum(each.ack is None for each in self._new)
        if lost:
            self._counters.add("outbox_dropped", lost)
            _log.error("%d results are lost: the disk did not take them", lost)

    def replay(self, send: Callable[[Outgoing], None], muted: Callable[[bytes], bool] = lambda _: False) -> None:
        """Sends what waits, as far as the window allows; not to topics (with their u16 length) that are `muted`."""
        if self._look_again_at is not None and self._clock() >= self._look_again_at:
            self._look_again_at, self._cursor = None, 0
        if self.outbox.rows > len(self._sent) and len(self._sent) < WINDOW:
            self._replay_rows(send, muted)
        elif self._new and self._refused_until is not None and not self.outbox.rows:
            new, self._new = self._new, []
            for message in new:
                send(message)

    def _replay_rows(self, send: Callable[[Outgoing], None], muted: Callable[[bytes], bool]) -> None:
        try:
            waiting = self.outbox.after(self._cursor, WINDOW - len(self._sent))
        except TransientError as error:
            _log.error("what waits cannot be read now: %s", error)
            return
        for message in waiting:
            self._cursor = message.id
            topic = text(message.topic)
            if message.id in self._sent:
                continue
            if muted(topic):
                if self._look_again_at is None:
                    self._look_again_at = self._clock() + RETRY_S
                continue
            self._sent.add(message.id)
            settled = self._settler(message.id)
            send(Outgoing(topic, message.properties, message.payload, settled=settled))

    def _settler(self, id_: int) -> Callable[[], None]:
        return lambda: self._acknowledged.append(id_)

    def connection_closed(self) -> None:
        """Whatever was sent and not acknowledged is sent again on the next connection, from the oldest on."""
        self._cursor = 0
        self._sent.clear()
