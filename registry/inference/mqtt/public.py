"""Nothing but paho's public interface: for a paho that the fast path does not know, or where it is switched off."""

from __future__ import annotations

import select
from collections.abc import Sequence
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ...contracts.tensors import HEADER_LENGTH_PROPERTY
from ..packets import Buffer, Publish, parse_header_length, text, variable
from .link import LAST_MID, MAX_READS, Link


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
