"""The two ways in which messages reach the connection: straight into the buffered socket, or through paho's API."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.dataplane.mqtt.fastpath import BufferedSocket
from registry.inference.packets import Buffer, encode_puback, encode_publish, variable

_LAST_MID = 65535


class FastTransport:
    """Encodes packets itself. paho publishes nothing in this mode, so its packet identifiers are only those of
    SUBSCRIBE; they are `reserved` until the broker has answered."""

    def __init__(self, taken: Collection[int], *, v5: bool) -> None:
        self.socket: BufferedSocket | None = None
        """Of the current connection."""
        self.reserved: set[int] = set()
        self._taken = taken
        self._mid = 0
        self._v5 = v5

    def publish(self, topic: bytes, properties: bytes, pieces: Sequence[Buffer]) -> None:
        """As Transport says."""
        if self.socket is not None:
            self.socket.put(encode_publish(topic, properties if self._v5 else None, pieces))

    def publish_acknowledged(self, topic: bytes, properties: bytes, payload: bytes, *, retain: bool) -> int:
        """As Transport says."""
        mid = self._mid
        while True:
            mid = mid + 1 if mid < _LAST_MID else 1
            if mid not in self._taken and mid not in self.reserved:
                break
        self._mid = mid
        if self.socket is not None:
            self.socket.put(encode_publish(topic, properties if self._v5 else None, (payload,), mid, retain))
        return mid

    def acknowledge(self, mid: int) -> None:
        """As Transport says."""
        if self.socket is not None:
            self.socket.put(encode_puback(mid))


class PublicTransport:
    """Nothing but paho's public API. Slower: every message costs paho several times what the fast path costs."""

    def __init__(self, client: mqtt.Client, *, v5: bool) -> None:
        self._client = client
        self._v5 = v5

    def publish(self, topic: bytes, properties: bytes, pieces: Sequence[Buffer]) -> None:
        """As Transport says."""
        self._client.publish(topic[2:].decode(), b"".join(pieces), 0, properties=self._properties(properties))

    def publish_acknowledged(self, topic: bytes, properties: bytes, payload: bytes, *, retain: bool) -> int:
        """As Transport says."""
        for _ in range(_LAST_MID):
            info = self._client.publish(topic[2:].decode(), payload, 1, retain, properties=self._properties(properties))
            if info.rc != mqtt.MQTT_ERR_QUEUE_SIZE:
                break  # else the packet identifier is still in use: paho takes the next
        return info.mid

    def acknowledge(self, mid: int) -> None:
        """As Transport says."""
        self._client.ack(mid, 1)

    def _properties(self, raw: bytes) -> Properties | None:
        if not self._v5:
            return None
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.unpack(variable(len(raw)) + raw)  # type: ignore[no-untyped-call]
        return properties
