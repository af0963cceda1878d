"""The few MQTT packets that the data path reads and writes itself: PUBLISH and PUBACK, of MQTT 5 and 3.1.1. Sans-I/O.

Source: OASIS MQTT 5.0, sections 2.1.4 (remaining length), 2.2.2 (properties), 3.3 (PUBLISH), 3.4 (PUBACK).
INVARIANT: lengths in a packet may lie. A head is only returned when every part of it lies inside its packet; what is
malformed or unusual (topic alias, subscription id, unknown property) is left to paho, which knows the whole protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

from ..contracts.tensors import HEADER_LENGTH_PROPERTY

if TYPE_CHECKING:
    from msgspec import Struct
else:
    try:
        from msgspec import Struct  # made in a third of the time of a dataclass
    except ImportError:  # the client's own wheel needs NumPy and paho only
        from dataclasses import dataclass

        class Struct:
            """In the place of msgspec's, as far as it is used here."""

            def __init_subclass__(cls, **_options):
                dataclass(cls)


PUBLISH = 0x30
PUBACK = 0x40
MAX_REMAINING = 268_435_455
"""The longest packet after its fixed header that the protocol can express."""
MAX_HEAD_BYTES = 160 << 10
"""Topic and properties of a request; a longer head is treated as malformed."""
NO_HEADER_LENGTH = -1
BAD_HEADER_LENGTH = -2

_PAYLOAD_FORMAT, _EXPIRY, _CONTENT_TYPE = 0x01, 0x02, 0x03
_RESPONSE_TOPIC, _CORRELATION, _USER = 0x08, 0x09, 0x26
_HEADER_LENGTH_NAME = HEADER_LENGTH_PROPERTY.encode()
TRACEPARENT = b"traceparent"
"""User property of the W3C's draft "Trace Context: MQTT protocol"."""

Buffer = Union[bytes, bytearray, memoryview]


class Publish(Struct, gc=False):
    """The head of a PUBLISH."""

    topic: bytes
    qos: int
    retain: bool
    mid: int
    """Packet identifier; 0 at QoS 0."""
    payload: int
    """Where the payload begins in the bytes that were parsed."""
    reply_to: bytes = b""
    """The response topic as it stands on the wire, with its u16 length; empty: none."""
    correlation: bytes = b""
    """The whole correlation data property (identifier, length, data), ready to go into a reply; empty: none."""
    content_type: bytes = b""
    header_length: int = NO_HEADER_LENGTH
    """Of user property `inference-header-content-length`; BAD_HEADER_LENGTH when it is no decimal number."""
    expiry: int = -1
    """Seconds until the message expires; -1: never."""
    traceparent: bytes = b""
    """User property `traceparent`: the trace that the message belongs to; empty: none."""


def remaining_length(data: Buffer, start: int) -> tuple[int, int] | None:
    """(value, where it ends) of the variable byte integer at `start`; None when it has not all come.

    Raises:
        ValueError: it is longer than four bytes.
    """
    value = shift = 0
    for position in range(start, min(start + 4, len(data))):
        byte = data[position]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position + 1
        shift += 7
    if len(data) - start >= 4:
        raise ValueError("a remaining length has more than four bytes")
    return None


def head_end(data: bytes, flags: int, start: int, v5: bool) -> int | None:
    """Where the payload of the PUBLISH at `start` begins, by its lengths; None when too little has come to know."""
    position = start + 2 + int.from_bytes(data[start : start + 2], "big") + (2 if flags & 6 else 0)
    if not v5:
        return position if len(data) >= start + 2 else None
    if position >= len(data):
        return None
    try:
        found = remaining_length(data, position)
    except ValueError:
        return position  # parse_publish will refuse it
    return None if found is None else found[0] + found[1]


def parse_publish(data: bytes, flags: int, start: int, end: int, v5: bool) -> Publish | None:
    """The head of a PUBLISH whose variable header is at `start` and whose packet ends at `end`.

    `flags` is the first byte of the packet. None: malformed or unusual, it is paho's to judge.
    The payload need not have come; the head must have (see `head_end`).
    """
    try:
        position = start + 2 + (data[start] << 8 | data[start + 1])
        topic = data[start + 2 : position]
        qos = flags >> 1 & 3
        mid = 0
        if qos:
            mid = data[position] << 8 | data[position + 1]
            position += 2
            if not mid or qos == 3:
                return None
        if not v5:
            publish = Publish(topic, qos, flags & 1 == 1, mid, position)
            return publish if position <= end and position <= len(data) else None
        size = data[position]
        position += 1
        if size > 127:
            found = remaining_length(data, position - 1)
            if found is None:
                return None
            size, position = found
        body = position + size
        if body > end or body > len(data):
            return None
        publish = Publish(topic, qos, flags & 1 == 1, mid, body)
        return publish if _parse_properties(data, position, body, publish) else None
    except (IndexError, ValueError):
        return None


def _parse_properties(data: bytes, position: int, end: int, publish: Publish) -> bool:
    """Positions only grow, so `position == end` at the end proves that every read was inside. May raise IndexError."""
    while position < end:
        kind = data[position]
        if kind == _EXPIRY:
            publish.expiry = int.from_bytes(data[position + 1 : position + 5], "big")
            position += 5
            continue
        if kind == _PAYLOAD_FORMAT:
            position += 2
            continue
        following = position + 3 + (data[position + 1] << 8 | data[position + 2])
        if kind == _CORRELATION and not publish.correlation:
            publish.correlation = data[position:following]
        elif kind == _RESPONSE_TOPIC and not publish.reply_to:
            publish.reply_to = data[position + 1 : following]
        elif kind == _USER:
            name = data[position + 3 : following]
            position, following = following, following + 2 + (data[following] << 8 | data[following + 1])
            name = name.lower()
            if name == _HEADER_LENGTH_NAME:
                publish.header_length = parse_header_length(data[position + 2 : following])
            elif name == TRACEPARENT:
                publish.traceparent = data[position + 2 : following]
        elif kind == _CONTENT_TYPE:
            publish.content_type = data[position + 3 : following]
        else:
            return False
        position = following
    return position == end


def parse_header_length(value: bytes) -> int:
    """The decimal number that a client gave as its header's length; BAD_HEADER_LENGTH when it is none."""
    return int(value) if 0 < len(value) <= 9 and value.isdigit() else BAD_HEADER_LENGTH


def variable(value: int) -> bytes:
    """A variable byte integer, 0 to MAX_REMAINING."""
    if value < 128:
        return bytes((value,))
    if value < 16384:
        return bytes((value & 127 | 128, value >> 7))
    if value < 2097152:
        return bytes((value & 127 | 128, value >> 7 & 127 | 128, value >> 14))
    if value > MAX_REMAINING:
        raise ValueError(f"a packet of {value} bytes is longer than MQTT can say")
    return bytes((value & 127 | 128, value >> 7 & 127 | 128, value >> 14 & 127 | 128, value >> 21))


def encode_publish(
    topic: bytes, properties: bytes | None, pieces: Sequence[Buffer], mid: int = 0, retain: bool = False
) -> bytes:
    """A PUBLISH, QoS 1 when `mid` is given.

    `topic` has its u16 length before it; `properties` is None for MQTT 3.1.1. Raises ValueError over MAX_REMAINING.
    """
    size = len(topic)
    for piece in pieces:
        size += len(piece)
    if properties is None:
        head = b""
    else:
        head = variable(len(properties)) + properties
        size += len(head)
    if mid:
        first = b"\x33" if retain else b"\x32"
        return b"".join((first, variable(size + 2), topic, mid.to_bytes(2, "big"), head, *pieces))
    return b"".join((b"\x31" if retain else b"\x30", variable(size), topic, head, *pieces))


def encode_puback(mid: int) -> bytes:
    """A PUBACK with success, the same in MQTT 5 and 3.1.1."""
    return b"@\x02" + mid.to_bytes(2, "big")


def text(value: bytes) -> bytes:
    """A UTF-8 string or binary data with its u16 length; at most 65535 bytes."""
    return len(value).to_bytes(2, "big") + value


def reply_properties(content_type: str, header_length: int | None) -> bytes:
    """The properties that say how a payload is to be read; correlation data is appended by the caller."""
    properties = b"\x03" + text(content_type.encode())
    if header_length is not None:
        properties += b"\x26" + text(_HEADER_LENGTH_NAME) + text(str(header_length).encode())
    return properties
