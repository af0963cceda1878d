"""What a broker takes, as its CONNACK says (MQTT 5.0, section 3.2.2.3), and what follows for packets. Pure.

A client that sends what the broker said it does not take is disconnected, each time again. Registry and agents keep to
these limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

REFUSED = 0x80
"""Reason codes from here on are failures."""
RETAIN_NOT_SUPPORTED = 0x9A
QOS_NOT_SUPPORTED = 0x9B
MAX_REMAINING = 268_435_455
"""The longest remaining length that a packet can have."""
MAX_RECEIVE = 65535
MAX_FILTERS = 50
"""Of one SUBSCRIBE: brokers bound it, at different numbers."""
_HEADER = 1 + 4
_TAIL = 2 + 1 + 5
"""Packet identifier, an empty property length, and room for a subscription identifier that a broker may count."""


@dataclass(frozen=True)
class BrokerLimits:
    """The defaults are those of a broker that names no limit, which includes every MQTT 3.1.1 broker."""

    receive_maximum: int = MAX_RECEIVE
    """QoS 1 and 2 publications that may be unacknowledged at once."""
    maximum_packet: int | None = None
    """Bytes of a whole packet; None: no limit but the protocol's."""
    maximum_qos: int = 2
    retain: bool = True
    """It keeps retained messages."""
    wildcards: bool = True
    """It takes subscriptions with `+` and `#`."""
    shared: bool = True
    """It takes subscriptions of the form `$share/…`."""
    keepalive_s: int | None = None
    """The client's keepalive is this one; None: what the client said."""

    @property
    def qos(self) -> int:
        """For what is meant to go at QoS 1."""
        return min(1, self.maximum_qos)

    @property
    def control_is_whole(self) -> bool:
        """Can registry and agents rely on MQTT alone? Else they also ask and tell each other over HTTP."""
        return self.retain and self.wildcards and self.maximum_qos >= 1

    def takes(self, topic: str, payload: int) -> bool:
        """Is a PUBLISH without properties, with a payload of so many bytes, not too long?"""
        return self.maximum_packet is None or publish_bytes(topic, payload) <= self.maximum_packet

    def missing(self) -> tuple[str, ...]:
        """What it does not have, for people."""
        what = (
            (self.retain, "retained messages"),
            (self.wildcards, "subscriptions with wildcards"),
            (self.maximum_qos >= 1, "QoS 1"),
        )
        return tuple(text for there, text in what if not there)


def limits_of(properties: Any) -> BrokerLimits:
    """From the properties of a CONNACK as paho brings them; None, or none of a kind: the protocol's default."""

    def said(name: str, otherwise: Any) -> Any:
        return getattr(properties, name, otherwise)

    longest, keepalive = said("MaximumPacketSize", None), said("ServerKeepAlive", None)
    return BrokerLimits(
        receive_maximum=min(max(1, int(said("ReceiveMaximum", MAX_RECEIVE))), MAX_RECEIVE),
        maximum_packet=int(longest) if longest else None,
        maximum_qos=int(said("MaximumQoS", 2)),
        retain=bool(said("RetainAvailable", 1)),
        wildcards=bool(said("WildcardSubscriptionAvailable", 1)),
        shared=bool(said("SharedSubscriptionAvailable", 1)),
        keepalive_s=int(keepalive) if keepalive else None,
    )


def publish_bytes(topic: str, payload: int) -> int:
    """Bytes of a PUBLISH without properties, or a few more."""
    return _HEADER + 2 + len(topic.encode()) + _TAIL + payload


def subscribable(filters: Sequence[str], limits: BrokerLimits) -> tuple[list[str], list[str]]:
    """The topic filters that this broker takes, and the others."""
    taken: list[str] = []
    left: list[str] = []
    for each in filters:
        shared = each.startswith("$share/")
        wild = "+" in each or "#" in each
        (taken if (limits.shared or not shared) and (limits.wildcards or not wild) else left).append(each)
    return taken, left


def in_packets(filters: Sequence[str], limits: BrokerLimits) -> Iterator[list[str]]:
    """The filters of one SUBSCRIBE each: not too many, and not longer together than the broker takes."""
    room = min(limits.maximum_packet or MAX_REMAINING, MAX_REMAINING) - _HEADER - _TAIL
    packet: list[str] = []
    size = 0
    for each in filters:
        needed = 2 + len(each.encode()) + 1
        if packet and (len(packet) >= MAX_FILTERS or size + needed > room):
            yield packet
            packet, size = [], 0
        packet.append(each)
        size += needed
    if packet:
        yield packet
