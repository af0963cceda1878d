"""One connection's reading and writing, in the fast way or through paho's public API alone.

Both pass requests to the same admission and take replies from the same `Outbound`.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Protocol

import paho.mqtt.client as mqtt

from agent.adapters.network.mqtt import MqttSession
from agent.dataplane.mqtt.fastpath import WOULD_BLOCK, BufferedSocket, FastClient
from agent.dataplane.mqtt.intake import Intake, Receiver
from agent.dataplane.mqtt.outbound import Outbound
from agent.dataplane.mqtt.transport import FastTransport
from registry.contracts.tensors import HEADER_LENGTH_PROPERTY
from registry.inference.packets import Buffer, Publish, parse_header_length, text

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike

READ_BYTES = 64 << 10
"""Of one read while packets are told apart; what is read so of a long payload is copied twice, the rest not at all."""
SKIP_BYTES = 256 << 10
MAX_READS = 16
"""Reads per turn, so that a broker that never pauses cannot keep the loop from dispatching."""
_PINGRESP = b"\xd0\x00"


class Link(Protocol):
    """What the loop drives."""

    def opened(self) -> None:
        """The client has a new connection; CONNECT is on its way."""

    def closed(self) -> None:
        """The connection has ended."""

    def subscribing(self, mid: int) -> None:
        """paho uses this packet identifier on the current connection."""

    def readable(self) -> bool:
        """Reads what has come. True: there may be more although the socket does not say so (TLS)."""

    def flush(self) -> bool:
        """Writes what is queued. True: something is left, ask for writability."""

    def congested(self) -> bool:
        """True: do not read now."""

    def alive(self) -> None:
        """Called a few times a keepalive: bytes of a long payload prove that the broker lives."""

    def discard_body(self) -> None:
        """Nobody wants the rest of the long request that is coming in."""


class FastLink:
    """Reads the buffered socket itself; paho gets what is not the data path's. Is the Intake's Sink."""

    def __init__(
        self,
        session: MqttSession,
        receiver: Receiver,
        outbound: Outbound,
        transport: FastTransport,
    ) -> None:
        self._client = session.client
        self._v5 = session.settings.v5
        self._receiver = receiver
        self._transport = transport
        self.puback = outbound.puback
        self._socket: BufferedSocket | None = None
        self._intake = Intake(receiver, self, v5=self._v5)
        self._scratch = memoryview(bytearray(SKIP_BYTES))
        self._body_bytes = 0

    def opened(self) -> None:
        """As Link says."""
        client = self._client
        self._socket = client.buffered if isinstance(client, FastClient) else None
        self._transport.socket = self._socket
        self._transport.reserved.clear()
        self._intake = Intake(self._receiver, self, v5=self._v5)

    def subscribing(self, mid: int) -> None:
        """As Link says."""
        self._transport.reserved.add(mid)

    def closed(self) -> None:
        """As Link says."""
        self._intake.closed = True
        self._socket = self._transport.socket = None
        self._receiver.abort()

    def readable(self) -> bool:
        """As Link says."""
        buffered, intake = self._socket, self._intake
        if buffered is None:
            return False
        for _ in range(MAX_READS):
            try:
                filled = self._read(buffered, intake)
            except WOULD_BLOCK:
                return False
            except OSError:
                filled = None
            if filled is None:
                buffered.ended = True
                self._client.loop_read()
                return False
            if intake.closed or (not filled and not buffered.tls):
                return False
        return buffered.tls

    def _read(self, buffered: BufferedSocket, intake: Intake) -> bool | None:
        """One read. True: it took all that was asked for, so there may be more. None: the peer has closed."""
        body = intake.body
        if body is not None:
            wanted, count = len(body.room()), buffered.real.recv_into(body.room())
            self._body_bytes += count
            if count:
                intake.body_advanced(count)
        elif intake.skip:
            wanted = min(intake.skip, SKIP_BYTES)
            count = buffered.real.recv_into(self._scratch[:wanted])
            self._body_bytes += count
            intake.skipped(count)
        else:
            wanted = READ_BYTES
            data = buffered.real.recv(READ_BYTES)
            count = len(data)
            intake.feed(data)
        return count == wanted if count else None

    def foreign(self, packet: Buffer) -> bool:
        """As Sink says."""
        buffered = self._socket
        if buffered is None:
            return False
        buffered.inbox += packet
        while buffered.inbox and self._socket is buffered:
            self._client.loop_read()
        return self._socket is buffered

    def flush(self) -> bool:
        """As Link says."""
        if self._client.want_write():
            self._client.loop_write()
        buffered = self._socket
        if buffered is None:
            return False
        try:
            return not buffered.flush()
        except OSError:
            buffered.ended = True
            buffered.inbox.clear()
            self._client.loop_read()
            return False

    def congested(self) -> bool:
        """As Link says."""
        return self._socket is not None and self._socket.congested()

    def alive(self) -> None:
        """As Link says. paho waits for its PINGRESP, which stands in the queue behind the payload."""
        between_packets = self._intake.body is not None or self._intake.skip > 0
        if between_packets and self._body_bytes:
            self.foreign(_PINGRESP)
        self._body_bytes = 0

    def discard_body(self) -> None:
        """As Link says."""
        if self._intake.body is not None:
            self._intake.skip = self._intake.body.left
            self._intake.body = None


class PublicLink:
    """paho reads and writes. Long payloads pass through its memory; see `requests` for the limit after that."""

    def __init__(self, session: MqttSession) -> None:
        self._client = session.client

    def opened(self) -> None:
        """As Link says."""

    def closed(self) -> None:
        """As Link says."""

    def subscribing(self, mid: int) -> None:
        """As Link says."""

    def readable(self) -> bool:
        """As Link says. paho reads packet by packet: go on while there are more, so that they can be a batch."""
        for _ in range(MAX_READS):
            if self._client.loop_read() != mqtt.MQTT_ERR_SUCCESS or not _has_more(self._client.socket()):
                return False
        return True

    def flush(self) -> bool:
        """As Link says."""
        if self._client.want_write():
            self._client.loop_write()
        return self._client.want_write()

    def congested(self) -> bool:
        """As Link says."""
        return False

    def alive(self) -> None:
        """As Link says."""

    def discard_body(self) -> None:
        """As Link says."""


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


def _has_more(sock: SocketLike | None) -> bool:
    """Would a read find something now?"""
    if sock is None:
        return False
    pending = getattr(sock, "pending", None)
    if callable(pending) and pending():
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))
