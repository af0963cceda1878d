"""The fields of a protobuf file, read where they lie: no weights in memory, no schema, no recursion.

`outer_fields` tells formats apart and sees that a file is cut short at the cost of a few reads; `ProtobufWalk`
goes into nested messages, with one limit on all the fields that it will look at, so that a hostile file
ends in a refusal. Encoding: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

MAX_FIELDS = 4096
"""An ONNX file has one field for its graph and one per operator domain, function and metadata entry."""
MAX_WALK = 5_000_000
"""Fields of one file that a walk looks at: some 15 s; a model of 100 000 operators has a third of that."""
PEEK_BYTES = 64
MAX_TEXT_BYTES = 4096
VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5


class NotProtobufError(ValueError):
    """The bytes do not follow the encoding, or not that of the expected message."""


class TruncatedError(NotProtobufError):
    """A field says that it is longer than the rest of the file."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message."""

    number: int
    wire_type: int
    length: int
    """Bytes of a length-delimited field, else the value of a varint, else 0."""
    head: bytes
    """The first bytes of a length-delimited field, at most PEEK_BYTES."""
    start: int = 0
    """Where the content of a length-delimited field lies in the file."""

    @property
    def signed(self) -> int:
        """The value of a varint that is declared int32 or int64."""
        value = self.length & (1 << 64) - 1
        return value - (1 << 64) if value >> 63 else value


def outer_fields(file: BinaryIO, size: int) -> Iterator[Field]:
    """The fields of a file of `size` bytes, in order; at most MAX_FIELDS.

    Raises:
        TruncatedError: a field reaches beyond the end.
        NotProtobufError: an impossible tag or varint.
    """
    return islice(ProtobufWalk(file, size).fields(), MAX_FIELDS)


class ProtobufWalk:
    """Reads nested messages of one file.

    Args:
        file: Opened for reading bytes; its position is moved.
        size: Bytes of it that are protobuf.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._left = MAX_WALK

    def fields(self, message: Field | None = None) -> Iterator[Field]:
        """The fields of a nested message, or of the whole file, in order.

        Raises:
            TruncatedError: a field reaches beyond the end of its message.
            NotProtobufError: not a message, or the file has more than MAX_WALK fields.
        """
        position, end = (0, self._size) if message is None else (message.start, message.start + message.length)
        if message is not None and message.wire_type != LENGTH_DELIMITED:
            raise NotProtobufError(f"field {message.number} is not a message")
        while position < end:
            if self._left == 0:
                raise NotProtobufError(f"more than {MAX_WALK} fields")
            self._left -= 1
            field, position = _field(self._file, position, end)
            yield field

    def last(self, message: Field | None = None) -> dict[int, Field]:
        """Number to the last field of that number, which is the one that counts where it is not repeated.

        Raises:
            NotProtobufError: as `fields`.
        """
        return {field.number: field for field in self.fields(message)}

    def text(self, field: Field | None) -> str:
        """The text of a string field; empty where there is none.

        Raises:
            NotProtobufError: not a string, not UTF-8, or longer than MAX_TEXT_BYTES.
        """
        return "" if field is None else self._bytes(field).decode("utf-8", "strict")

    def numbers(self, field: Field) -> list[int]:
        """The values of one field of repeated int64, packed or not.

        Raises:
            NotProtobufError: neither.
        """
        if field.wire_type == VARINT:
            return [field.signed]
        packed, at, found = self._bytes(field), 0, []
        while at < len(packed):
            value, at = _varint(packed, at)
            found.append(Field(field.number, VARINT, value, b"").signed)
        return found

    def _bytes(self, field: Field) -> bytes:
        if field.wire_type != LENGTH_DELIMITED:
            raise NotProtobufError(f"field {field.number} is a number where a text was expected")
        if field.length > MAX_TEXT_BYTES:
            raise NotProtobufError(f"field {field.number} has {field.length} bytes where a short text was expected")
        if field.length <= len(field.head):
            return field.head[: field.length]
        self._file.seek(field.start)
        return self._file.read(field.length)


def _field(file: BinaryIO, position: int, end: int) -> tuple[Field, int]:
    """The field at `position` of a message that ends at `end`, and where the next one begins."""
    file.seek(position)
    chunk = file.read(min(20 + PEEK_BYTES, end - position))
    tag, at = _varint(chunk, 0)
    number, wire_type = tag >> 3, tag & 7
    if not 1 <= number < 1 << 29:
        raise NotProtobufError(f"field number {number}")
    length, head, start, body = 0, b"", 0, 0
    if wire_type == VARINT:
        length, at = _varint(chunk, at)
    elif wire_type == LENGTH_DELIMITED:
        length, at = _varint(chunk, at)
        head = chunk[at : at + min(length, PEEK_BYTES)]
        start, body = position + at, length
    elif wire_type in (FIXED64, FIXED32):
        at += 8 if wire_type == FIXED64 else 4
    else:
        raise NotProtobufError(f"wire type {wire_type}")
    after = position + at + body
    if after > end:
        raise TruncatedError(f"field {number} ends {after - end} bytes after the end of the file")
    return Field(number, wire_type, length, head, start), after


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
