"""What goes out: replies, results, events and control documents, through whichever transport the session has.

At most the broker's Receive Maximum of QoS 1 messages are unacknowledged; the rest waits in order. That queue needs no
limit of its own: a QoS 1 request is acknowledged only once its reply has left the queue, and the broker delivers no
more unacknowledged requests than the Receive Maximum that this agent announced.
What is unacknowledged when the connection ends goes to the outbox, but for documents that are published again anyway.

A broker may end the connection because of a reply: a response topic that breaks a rule of its own. Its request would be
delivered again on the next connection, and so for ever. So the oldest reply that is unacknowledged at an end gives its
topic a strike; a PUBACK takes the strikes back, and a topic with too many of them is not sent to any more.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from agent.dataplane.acks import Ack, AckQueue
from agent.dataplane.packets import MAX_REMAINING, Buffer

MAX_WINDOW = 60000
"""QoS 1 messages in flight, whatever the broker allows: packet identifiers are 16 bits and others use some."""
HEAD_ROOM = 2048
"""Bytes of a packet that are neither payload nor properties, at most: a topic of MAX_TOPIC_BYTES, lengths."""
REFUSED = 0x80
"""Reason codes from here on are failures."""
MAX_STRIKES = 5
"""Connections that may end in a row with a reply to the same topic in front."""
_MAX_STRUCK_TOPICS = 1024
_log = logging.getLogger(__name__)


class Transport(Protocol):
    """Hands messages to the connection."""

    def publish(self, topic: bytes, properties: bytes, pieces: Sequence[Buffer]) -> None:
        """At QoS 0. `topic` has its u16 length; `properties` are raw MQTT 5 properties, left out in 3.1.1."""

    def publish_acknowledged(self, topic: bytes, properties: bytes, payload: bytes, *, retain: bool) -> int:
        """At QoS 1; answers the packet identifier that the PUBACK will have."""

    def acknowledge(self, mid: int) -> None:
        """Sends the PUBACK of a message that came."""


class Spool(Protocol):
    """Keeps on disk what could not be delivered."""

    def pending(self) -> bool:
        """True: it holds messages, after which newer results have to wait."""

    def spool(self, topic: bytes, properties: bytes, payload: bytes) -> None:
        """Takes one message, to be written with all others of this turn."""


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


class Outbound:
    """INVARIANT: `connected` is True only between CONNACK and the end of the connection."""

    def __init__(
        self,
        transport: Transport,
        spool: Spool,
        unacknowledged: dict[int, Outgoing],
        is_clients: Callable[[bytes], bool] = lambda _topic: True,
    ) -> None:
        """`is_clients`: was this topic (with its u16 length) named by a client? The fleet's own get no strikes."""
        self._transport = transport
        self._spool = spool
        self._is_clients = is_clients
        self._strikes: dict[bytes, int] = {}
        self.acks = AckQueue(transport.acknowledge)
        self.connected = False
        self.window = MAX_WINDOW
        """The broker's Receive Maximum."""
        self.longest = MAX_REMAINING - HEAD_ROOM
        """Bytes of payload and properties that the broker takes. It ends a connection that sends more."""
        self.unacknowledged = unacknowledged
        """By packet identifier; the transport takes none of these for a new message."""
        self._later: deque[Outgoing] = deque()
        self.dropped = 0
        """QoS 0 messages that were to be sent without a connection, or are longer than the broker takes."""
        self.refused = 0
        """QoS 1 messages that the broker refused, or that would end its connections."""

    def waiting(self) -> int:
        """QoS 1 messages that wait for the window."""
        return len(self._later)

    def opened(self, receive_maximum: int, maximum_packet: int | None = None) -> None:
        """CONNACK came, with what the broker takes."""
        self.connected = True
        self.longest = max(0, min(maximum_packet or MAX_REMAINING, MAX_REMAINING) - HEAD_ROOM)
        self.window = min(receive_maximum, MAX_WINDOW)

    def closed(self) -> None:
        """The connection has ended."""
        self.connected = False
        self._strike()
        for message in (*self.unacknowledged.values(), *self._later):
            if message.settled is None:
                self._spool.spool(message.topic, message.properties, message.payload)
        self.unacknowledged.clear()
        self._later.clear()
        self.acks.clear()

    def _strike(self) -> None:
        """The connection has ended: the oldest unacknowledged reply may be why."""
        topics = (message.topic for message in self.unacknowledged.values() if self._is_clients(message.topic))
        topic = next(topics, None)
        if topic is None:
            return
        if topic not in self._strikes and len(self._strikes) >= _MAX_STRUCK_TOPICS:
            self._strikes.clear()
        strikes = self._strikes[topic] = self._strikes.get(topic, 0) + 1
        if strikes == MAX_STRIKES:
            shown = topic[2:202].decode("utf-8", "replace")
            _log.error("the broker ended %d connections in a row at a reply to %r: no more of them", strikes, shown)

    def reply(self, topic: bytes, properties: bytes, pieces: Sequence[Buffer], ack: Ack | None) -> None:
        """Answers a request; at QoS 1, and on disk if need be, when it came with QoS 1 (`ack`)."""
        if ack is not None:
            self.send(Outgoing(topic, properties, b"".join(pieces), ack))
        elif self.connected and len(properties) + sum(map(len, pieces)) <= self.longest:
            self._transport.publish(topic, properties, pieces)
        else:
            self.dropped += 1

    def result(self, message: Outgoing) -> None:
        """A result for the results topic, in order: behind those on disk, and to disk when the window is full."""
        if self.connected and not self._spool.pending() and len(self.unacknowledged) < self.window:
            self._transmit(message)
            return
        self._spool.spool(message.topic, message.properties, message.payload)
        if message.ack is not None:
            self.acks.settle(message.ack)  # leaves after this turn's spool is on disk

    def send(self, message: Outgoing) -> None:
        """A QoS 1 message. Without a connection it goes to the outbox, unless somebody else keeps it."""
        if not self.connected:
            if message.settled is None:
                self._spool.spool(message.topic, message.properties, message.payload)
        elif len(self.unacknowledged) < self.window and not self._later:
            self._transmit(message)
        else:
            self._later.append(message)

    def _transmit(self, message: Outgoing) -> None:
        too_long = len(message.properties) + len(message.payload) > self.longest
        if too_long or self._strikes.get(message.topic, 0) >= MAX_STRIKES:
            self._give_up(message)
            return
        mid = self._transport.publish_acknowledged(
            message.topic, message.properties, message.payload, retain=message.retain
        )
        self.unacknowledged[mid] = message
        ack = message.ack
        if ack is not None:
            message.ack = None
            self.acks.settle(ack)

    def _give_up(self, message: Outgoing) -> None:
        """It would end every connection that it is sent on, so it is dropped, and counted."""
        self.refused += 1
        if message.settled is not None:
            message.settled()
        if message.ack is not None:
            self.acks.settle(message.ack)

    def puback(self, mid: int, reason: int) -> bool:
        """A PUBACK came. False: it is not one of these messages'."""
        message = self.unacknowledged.pop(mid, None)
        if message is None:
            return False
        if self._strikes:
            self._strikes.pop(message.topic, None)
        if reason >= REFUSED:
            self.refused += 1
        if message.settled is not None:
            message.settled()
        while self._later and len(self.unacknowledged) < self.window:
            self._transmit(self._later.popleft())
        return True
