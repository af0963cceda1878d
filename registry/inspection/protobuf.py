"""The outermost fields of a protobuf file, without reading what is inside them.

Enough to tell protobuf formats apart and to see that a file is cut short, at the cost of a few
reads however long the file is. Encoding: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAX_FIELDS = 4096
"""An ONNX file has one field for its graph and one per operator domain, function and metadata entry."""
PEEK_BYTES = 64
VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5


class NotProtobufError(ValueError):
    """The bytes do not follow the encoding."""


class TruncatedError(NotProtobufError):
    """A field says that it is longer than the rest of the file."""


@dataclass(frozen=True)
class Field:
    """One outermost field."""

    number: int
    wire_type: int
    length: int
    """Bytes of a length-delimited field, else the value of a varint, else 0."""
    head: bytes
    """The first bytes of a length-delimited field, at most PEEK_BYTES."""


def outer_fields(file: BinaryIO, size: int) -> Iterator[Field]:
    """The fields of a file of `size` bytes, in order; at most MAX_FIELDS.

    Raises:
        TruncatedError: a field reaches beyond the end.
        NotProtobufError: an impossible tag or varint.
    """
    position = 0
    for _ in range(MAX_FIELDS):
        if position >= size:
            return
        file.seek(position)
        chunk = file.read(20 + PEEK_BYTES)
        tag, at = _varint(chunk, 0)
        number, wire_type = tag >> 3, tag & 7
        if not 1 <= number < 1 << 29:
            raise NotProtobufError(f"field number {number}")
        length, head = 0, b""
        if wire_type == VARINT:
            length, at = _varint(chunk, at)
        elif wire_type == LENGTH_DELIMITED:
            length, at = _varint(chunk, at)
            head = chunk[at : at + min(length, PEEK_BYTES)]
            position += length
        elif wire_type in (FIXED64, FIXED32):
            at += 8 if wire_type == FIXED64 else 4
        else:
            raise NotProtobufError(f"wire type {wire_type}")
        position += at
        if position > size:
            raise TruncatedError(f"field {number} ends {position - size} bytes after the end of the file")
        yield Field(number, wire_type, length, head)


def _varint(chunk: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(chunk):
            raise TruncatedError("the file ends inside a field")
        byte = chunk[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise NotProtobufError("a varint of more than ten bytes")
