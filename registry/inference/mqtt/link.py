"""The connection as the loop drives it, and its socket in the loop's selector.

Two links read and write: that of `fast` reads the socket itself; `PublicLink` uses nothing but paho's public interface,
for a paho that the fast path does not know, or where it is switched off. Both pass requests to one receiver. paho opens
and closes the socket; the selector is told of both before the number of a closed one can come back.
"""

from __future__ import annotations

import select
import selectors
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ...contracts.tensors import HEADER_LENGTH_PROPERTY
from ..packets import Buffer, Publish, parse_header_length, text, variable
from .intake import Receiver

MAX_READS = 16
"""Reads per turn, so that a broker that never pauses cannot keep the loop from dispatching."""
LAST_MID = 65535
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Transport(Protocol):
    """Hands messages to the connection."""

    def publish(self, topic: bytes, properties: bytes, pieces: Sequence[Buffer]) -> None:
        """At QoS 0. `topic` has its u16 length; `properties` are raw MQTT 5 properties, left out in 3.1.1."""

    def publish_acknowledged(
        self, topic: bytes, properties: bytes, pieces: Sequence[Buffer], *, retain: bool = False
    ) -> int:
        """At QoS 1; answers the packet identifier that the PUBACK will have."""

    def acknowledge(self, mid: int) -> None:
        """Sends the PUBACK of a message that came."""


class Link(Transport):
    """One connection's reading and writing, as the loop drives it. What a link does not need does nothing."""

    def serve(self, receiver: Receiver, puback: Callable[[int, int], bool], taken: Collection[int]) -> None:
        """Who takes what comes; once, before anything does.

        Args:
            receiver: Takes the requests.
            puback: Takes the acknowledgements of what was published; it answers False for what is paho's.
            taken: The packet identifiers that wait for one; a publication takes another.
        """

    def opened(self) -> None:
        """The client has a new connection; CONNECT is on its way."""

    def closed(self) -> None:
        """The connection has ended."""

    def subscribing(self, mid: int) -> None:
        """paho uses this packet identifier on the current connection."""

    @abstractmethod
    def readable(self) -> bool:
        """Reads what has come. True: there may be more although the socket does not say so (TLS)."""

    @abstractmethod
    def flush(self) -> bool:
        """Writes what is queued. True: something is left, ask for writability."""

    def congested(self) -> bool:
        """True: do not read now."""
        return False

    def alive(self) -> None:
        """Called a few times a keepalive: bytes of a long payload prove that the broker lives."""

    def discard_body(self) -> None:
        """Nobody wants the rest of the long request that is coming in."""


class SocketSelector(Protocol):
    """Who watches the socket: a selector, or an event loop in the form of one."""

    def register(self, sock: Any, events: int, ready: Callable[[int], None], /) -> Any:
        """Calls `ready` with the events of `selectors` that happen."""

    def modify(self, sock: Any, events: int, ready: Callable[[int], None], /) -> Any:
        """From now on for these events."""

    def unregister(self, sock: Any, /) -> Any:
        """Not any more."""


class BrokerSocket:
    """Only the thread that owns the connection is in here."""

    def __init__(self, selector: SocketSelector, client: mqtt.Client, link: Link) -> None:
        self._selector = selector
        self._client = client
        self._link = link
        self._registered: mqtt.SocketLike | None = None
        self._interest = 0
        self.more = False
        """The last read left something that has arrived: the next turn must not wait."""
        client.on_socket_close = self._closed

    def read_rest(self) -> None:
        """What the last read left."""
        if self.more:
            self.more = self._link.readable()

    def flush(self) -> None:
        """Sends everything, and asks the selector for what the socket needs next."""
        left = self._link.flush()
        sock = self._client.socket()
        if sock is not self._registered:
            self._closed()
            if sock is not None:
                self._selector.register(sock, _READ, self._ready)
                self._registered, self._interest = sock, _READ
        if sock is None:
            return
        interest = (0 if self._link.congested() else _READ) | (_WRITE if left else 0)
        if interest != self._interest:
            self._interest = interest
            self._selector.modify(sock, interest or _WRITE, self._ready)

    def _ready(self, events: int) -> None:
        if events & _READ:
            self.more = self._link.readable()

    def _closed(self, *_: Any) -> None:
        """paho is about to close its socket."""
        registered, self._registered = self._registered, None
        if registered is not None:
            self.more = False
            self._selector.unregister(registered)


class PublicLink(Link):
    """Nothing but paho's public API. Slower: every message costs paho several times what the fast path costs.

    Long payloads pass through paho's memory; whoever takes them bounds them after that.
    """

    def __init__(self, client: mqtt.Client, *, v5: bool) -> None:
        self._client = client
        self._v5 = v5

    def publish(self, topic: bytes, properties: bytes, pieces: Sequence[Buffer]) -> None:
        """Through paho, at QoS 0."""
        self._client.publish(topic[2:].decode(), b"".join(pieces), 0, properties=self._properties(properties))

    def publish_acknowledged(
        self, topic: bytes, properties: bytes, pieces: Sequence[Buffer], *, retain: bool = False
    ) -> int:
        """Through paho, at QoS 1."""
        payload = b"".join(pieces)
        for _ in range(LAST_MID):
            info = self._client.publish(topic[2:].decode(), payload, 1, retain, properties=self._properties(properties))
            if info.rc != mqtt.MQTT_ERR_QUEUE_SIZE:
                break  # else the packet identifier is still in use: paho takes the next
        return info.mid

    def acknowledge(self, mid: int) -> None:
        """Through paho."""
        self._client.ack(mid, 1)

    def _properties(self, raw: bytes) -> Properties | None:
        if not self._v5:
            return None
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.unpack(variable(len(raw)) + raw)  # type: ignore[no-untyped-call]
        return properties

    def readable(self) -> bool:
        """paho reads packet by packet: go on while there are more, so that they can be a batch."""
        for _ in range(MAX_READS):
            if self._client.loop_read() != mqtt.MQTT_ERR_SUCCESS or not _has_more(self._client.socket()):
                return False
        return True

    def flush(self) -> bool:
        """What paho has queued."""
        if self._client.want_write():
            self._client.loop_write()
        return self._client.want_write()


def publish_of(message: mqtt.MQTTMessage, *, v5: bool) -> Publish:
    """What admission needs of a message that paho has read. Its payload begins at 0. Raises UnicodeDecodeError."""
    publish = Publish(message.topic.encode(), message.qos, bool(message.retain), message.mid, 0)
    properties = message.properties
    if v5 and properties is not None:
        _take_properties(publish, properties)
    return publish


def _take_properties(publish: Publish, properties: object) -> None:
    topic = getattr(properties, "ResponseTopic", "")
    publish.reply_to = text(topic.encode()) if topic else b""
    correlation = getattr(properties, "CorrelationData", None)
    publish.correlation = b"\x09" + text(correlation) if correlation is not None else b""
    publish.content_type = getattr(properties, "ContentType", "").encode()
    publish.expiry = int(getattr(properties, "MessageExpiryInterval", -1))
    for name, value in getattr(properties, "UserProperty", ()):
        if name.lower() == HEADER_LENGTH_PROPERTY:
            publish.header_length = parse_header_length(value.encode())
        elif name.lower() == "traceparent":
            publish.traceparent = value.encode()


def _has_more(sock: Any) -> bool:
    """Would a read find something now?"""
    if sock is None:
        return False
    pending = getattr(sock, "pending", None)
    if callable(pending) and pending():
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))
