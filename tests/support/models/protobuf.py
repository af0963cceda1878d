"""Protobuf bytes by hand, for files that no exporter would write."""

from __future__ import annotations


def number(field: int, value: int) -> bytes:
    """A varint field; a negative value as int64 writes it."""
    return varint(field << 3) + varint(value & (1 << 64) - 1)


def message(field: int, content: bytes | str) -> bytes:
    """A length-delimited field: a message, bytes or a text."""
    raw = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def varint(value: int) -> bytes:
    """The number alone."""
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])
