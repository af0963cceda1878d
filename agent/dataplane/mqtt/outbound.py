"""What goes out: replies, results, events and control documents, through whichever transport the session has.

At most the broker's Receive Maximum of QoS 1 messages are unacknowledged; the rest waits in order. That queue needs no
limit of its own: a QoS 1 request is acknowledged only once its reply has left the queue, and the broker delivers no
more unacknowledged requests than the Receive Maximum that this agent announced.
What is unacknowledged when the connection ends goes to the outbox, but for documents that are published again anyway.

A request is acknowledged when its reply is on its way, or on disk: what the disk refuses keeps its acknowledgement. So
the broker delivers the requests of a killed agent again, and nothing is written to disk for them. Acknowledgements are
sent in the order in which the requests came. Source: MQTT 5.0 section 4.6 (MQTT-4.6.0-2).
A topic whose replies seem to end the connections (`core.strikes`) is left alone for a while; what is meant for it waits
on disk.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from agent.core.strikes import Strikes
from registry.contracts.broker import BrokerLimits
from registry.contracts.counters import Counters
from registry.inference.mqtt.link import Transport
from registry.inference.packets import MAX_REMAINING, Buffer

Ack = list[int]
"""One acknowledgement that is owed: [packet identifier, 1 when it may be sent]."""


class AckQueue:
    """Of one connection at a time."""

    def __init__(self, send: Callable[[int], None]) -> None:
        self._send = send
        self._owed: deque[Ack] = deque()

    def __len__(self) -> int:
        return len(self._owed)

    def owe(self, mid: int) -> Ack:
        """A QoS 1 message came."""
        ack = [mid, 0]
        self._owed.append(ack)
        return ack

    def settle(self, ack: Ack) -> None:
        """Its message is dealt with. One of an earlier connection is ignored: the broker sends the message again."""
        ack[1] = 1
        owed = self._owed
        while owed and owed[0][1]:
            self._send(owed.popleft()[0])

    def clear(self) -> None:
        """The connection has ended."""
        self._owed.clear()


MAX_WINDOW = 60000
"""QoS 1 messages in flight, whatever the broker allows: packet identifiers are 16 bits and others use some."""
FRAME = 1 + 4 + 2 + 4
"""Bytes of a PUBLISH beside topic, properties and payload, at most: type, two lengths, packet identifier."""
REFUSED = 0x80
"""Reason codes from here on are failures."""
_log = logging.getLogger(__name__)


class Outgoing(msgspec.Struct, gc=False):
    """A QoS 1 message that is not acknowledged yet."""

    topic: bytes
    properties: bytes
    payload: bytes
    ack: Ack | None = None
    """Owed for the request that this answers."""
    retain: bool = False
    settled: Callable[[], None] | None = None
    """Called at PUBACK. Whoever set it also keeps the message: it is not spooled when the connection ends."""


class Spool(Protocol):
    """Keeps on disk what could not be delivered."""

    def pending(self) -> bool:
        """True: it holds messages, after which newer results have to wait."""

    def spool(self, message: Outgoing) -> None:
        """Takes one message, to be written with all others of this turn. Its `ack`, when it has one, is settled once
        it is on disk, and not before."""


class Outbound:
    """INVARIANT: `connected` is True only between CONNACK and the end of the connection."""

    def __init__(
        self,
        transport: Transport,
        spool: Spool,
        *,
        counters: Counters,
        is_clients: Callable[[bytes], bool] = lambda _topic: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`is_clients`: was this topic (with its u16 length) named by a client? The fleet's own get no strikes."""
        self._transport = transport
        self._spool = spool
        self.counters = counters
        self._is_clients = is_clients
        self._clock = clock
        self._strikes = Strikes()
        self.acks = AckQueue(transport.acknowledge)
        self.connected = False
        self.window = MAX_WINDOW
        """The broker's Receive Maximum."""
        self.longest = MAX_REMAINING - FRAME
        """Bytes of topic, properties and payload that the broker takes. It ends a connection that sends more."""
        self._retain = self._acknowledged = True
        """The broker keeps retained messages; it takes QoS 1."""
        self.unacknowledged: dict[int, Outgoing] = {}
        """By packet identifier; the transport takes none of these for a new message."""
        self._later: deque[Outgoing] = deque()

    def waiting(self) -> int:
        """QoS 1 messages that wait for the window."""
        return len(self._later)

    def opened(self, limits: BrokerLimits) -> None:
        """CONNACK came, with what the broker takes."""
        self.connected = True
        self.longest = min(limits.maximum_packet or MAX_REMAINING, MAX_REMAINING) - FRAME
        self.window = min(limits.receive_maximum, MAX_WINDOW)
        self._retain, self._acknowledged = limits.retain, limits.qos > 0

    def closed(self) -> None:
        """The connection has ended."""
        self.connected = False
        self._strike()
        for message in (*self.unacknowledged.values(), *self._later):
            if message.settled is None:
                self._spool.spool(message)
        self.unacknowledged.clear()
        self._later.clear()
        self.acks.clear()

    def _strike(self) -> None:
        """The connection has ended: the oldest unacknowledged reply may be why."""
        topics = (message.topic for message in self.unacknowledged.values() if self._is_clients(message.topic))
        topic = next(topics, None)
        if topic is None:
            return
        mute = self._strikes.strike(topic, self._clock())
        if mute:
            _log.error("connections end again and again at a reply to %r: it gets none for %.0f s", _shown(topic), mute)

    def muted(self, topic: bytes) -> bool:
        """Nothing is to be sent to this topic (with its u16 length) now."""
        return bool(self._strikes) and self._strikes.muted(topic, self._clock())

    def reply(self, topic: bytes, properties: bytes, pieces: Sequence[Buffer], ack: Ack | None) -> None:
        """Answers a request; at QoS 1, and on disk if need be, when it came with QoS 1 (`ack`)."""
        if ack is not None:
            self.send(Outgoing(topic, properties, b"".join(pieces), ack))
        elif self.connected and len(topic) + len(properties) + sum(map(len, pieces)) <= self.longest:
            self._transport.publish(topic, properties, pieces)
        elif self.counters.add("replies_dropped"):
            why = (
                f"it is longer than the {self.longest} bytes that the broker takes" if self.connected else "it is away"
            )
            _log.error("a reply to %r at QoS 0 is lost: %s; more are only counted", _shown(topic), why)

    def result(self, message: Outgoing) -> None:
        """A result for the results topic, in order: behind those on disk, and to disk when the window is full."""
        if self.connected and not self._spool.pending() and len(self.unacknowledged) < self.window:
            self._transmit(message)
            return
        self._spool.spool(message)

    def send(self, message: Outgoing) -> None:
        """A QoS 1 message. Without a connection it goes to the outbox, unless somebody else keeps it."""
        if not self.connected:
            if message.settled is None:
                self._spool.spool(message)
        elif len(self.unacknowledged) < self.window and not self._later:
            self._transmit(message)
        else:
            self._later.append(message)

    def _transmit(self, message: Outgoing) -> None:
        if len(message.topic) + len(message.properties) + len(message.payload) > self.longest:
            self._give_up(message)
            return
        if self._strikes and self.muted(message.topic):
            if message.settled is None and not self._strikes.hopeless(message.topic):
                self._spool.spool(message)
            else:
                self._give_up(message)
            return
        if not self._acknowledged:
            self._transport.publish(message.topic, message.properties, (message.payload,))
            self._done_with(message)
            return
        retain = message.retain and self._retain
        pieces = (message.payload,)
        mid = self._transport.publish_acknowledged(message.topic, message.properties, pieces, retain=retain)
        self.unacknowledged[mid] = message
        ack = message.ack
        if ack is not None:
            message.ack = None
            self.acks.settle(ack)

    def _give_up(self, message: Outgoing) -> None:
        """It would end every connection that it is sent on, so it is dropped, and counted."""
        if self.counters.add("replies_refused"):
            _log.error(
                "a message of %d bytes to %r would end the connection and is given up; more are only counted",
                len(message.payload),
                _shown(message.topic),
            )
        self._done_with(message)

    def _done_with(self, message: Outgoing) -> None:
        if message.settled is not None:
            message.settled()
        if message.ack is not None:
            self.acks.settle(message.ack)

    def _refused(self, reason: int, topic: bytes) -> None:
        self.counters.add("replies_refused")
        if self.counters.add("publications_refused", label=f"0x{reason:02x}"):
            _log.error(
                "the broker refuses a publication to %r, reason 0x%02x; more are only counted", _shown(topic), reason
            )

    def puback(self, mid: int, reason: int) -> bool:
        """A PUBACK came. False: it is not one of these messages'."""
        message = self.unacknowledged.pop(mid, None)
        if message is None:
            return False
        if self._strikes:
            self._strikes.clear(message.topic)
        if reason >= REFUSED:
            self._refused(reason, message.topic)
        if message.settled is not None:
            message.settled()
        while self._later and len(self.unacknowledged) < self.window:
            self._transmit(self._later.popleft())
        return True


def _shown(topic: bytes) -> str:
    """For the log."""
    return topic[2:202].decode("utf-8", "replace")
