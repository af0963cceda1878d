"""Reads rows out of the pages of an SQLite file and of its write-ahead log, where SQLite itself refuses the file.

One flipped bit in an inner page, a header or the schema makes SQLite refuse thousands of rows that are whole. Here
every page is tried as a leaf of a table (https://www.sqlite.org/fileformat2.html, sections 1.6, 2 and 4), and every
record that can be decoded is given, in no order, the rowid before its values. That finds rows that were deleted or
overwritten since, and rows that are damaged: whoever reads must know a row by a checksum of its own, and the newest by
a number in it.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PAGE = 4096
"""Bytes; both databases are made so."""
WAL_SUFFIX = "-wal"
_HEADER = 100
"""Bytes before the tree in page 1."""
_WAL_HEADER, _FRAME_HEADER = 32, 24
_BIG_ENDIAN_SUMS = 0x377F0683
_MAX_LOCAL = PAGE - 35
_MIN_LOCAL = (PAGE - 12) * 32 // 255 - 23
_INTEGER_BYTES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}

Value = bytes | int | None
"""Text comes as its bytes; floating-point numbers are not read."""
Row = list[Value]


def rows(file: Path) -> Iterator[Row]:
    """Everything that looks like a row, of the file and of its log; the latter last. A file that is not there has none.

    Raises:
        OSError: the disk refuses.
    """
    with _opened(file) as stream:
        pages = _Pages(stream)
        for number in range(1, pages.count + 1):
            yield from _rows_of(pages[number], number, pages)
        yield from _log_rows(file, pages)


def log_rows(file: Path) -> list[Row]:
    """Those of the log alone. Raises OSError."""
    if not file.with_name(file.name + WAL_SUFFIX).exists():
        return []
    with _opened(file) as stream:
        return list(_log_rows(file, _Pages(stream)))


def _log_rows(file: Path, pages: _Pages) -> Iterator[Row]:
    frames = list(_frames(file))
    pages.newer.update(frames)  # first: what a row goes on in follows its page
    for number, page in frames:
        yield from _rows_of(page, number, pages)


def header_fault(file: Path) -> str:
    """What the first bytes say that no writer of ours wrote and SQLite takes for a file that is only to be read."""
    data = _read(file, _HEADER)
    versions = tuple(data[18:20])
    return "" if len(data) < _HEADER or versions in ((1, 1), (2, 2)) else f"malformed: file format {versions}"


def log_is_broken(file: Path) -> bool:
    """Does the log hold frames of its own behind one whose checksum is wrong? SQLite leaves them out in silence.

    So does a log that was being written when the power went; nothing in it tells the two apart. Raises OSError.
    """
    data = _read(file.with_name(file.name + WAL_SUFFIX))
    if len(data) < _WAL_HEADER:
        return False
    order = ">" if struct.unpack_from(">I", data)[0] == _BIG_ENDIAN_SUMS else "<"
    first, second = _sum(data[:24], 0, 0, order)
    if (first, second) != struct.unpack_from(">II", data, 24):
        return True
    starts = range(_WAL_HEADER, len(data) - _FRAME_HEADER - PAGE + 1, _FRAME_HEADER + PAGE)
    mine = [start for start in starts if data[start + 8 : start + 16] == data[16:24]]  # the others: an earlier round
    for start, expected in zip(mine, starts, strict=False):
        first, second = _sum(data[start : start + 8], first, second, order)
        first, second = _sum(data[start + _FRAME_HEADER : start + _FRAME_HEADER + PAGE], first, second, order)
        if start != expected or (first, second) != struct.unpack_from(">II", data, start + 16):
            return True
    return False


def _sum(data: bytes, first: int, second: int, order: str) -> tuple[int, int]:
    """Section 4.2: a Fibonacci-weighted sum over pairs of 32-bit integers."""
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for at in range(0, len(words), 2):
        first = (first + words[at] + second) & 0xFFFFFFFF
        second = (second + words[at + 1] + first) & 0xFFFFFFFF
    return first, second


class _Pages:
    """The pages of a file by their number; those of its log before them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.count = file.seek(0, os.SEEK_END) // PAGE
        self.newer: dict[int, bytes] = {}

    def __getitem__(self, number: int) -> bytes:
        """Raises KeyError for one that is not there."""
        if number in self.newer:
            return self.newer[number]
        if not 1 <= number <= self.count:
            raise KeyError(number)
        self._file.seek((number - 1) * PAGE)
        return self._file.read(PAGE)

    @property
    def most(self) -> int:
        """Bytes that a row can have."""
        return (self.count + len(self.newer)) * PAGE


def _frames(file: Path) -> Iterator[tuple[int, bytes]]:
    """Number and content of each page in the log; of an earlier round too: those are older."""
    data = _read(file.with_name(file.name + WAL_SUFFIX))
    for start in range(_WAL_HEADER, len(data) - _FRAME_HEADER - PAGE + 1, _FRAME_HEADER + PAGE):
        body = start + _FRAME_HEADER
        yield struct.unpack_from(">I", data, start)[0], data[body : body + PAGE]


def _read(file: Path, count: int = -1) -> bytes:
    with _opened(file) as stream:
        return stream.read(count)


def _opened(file: Path) -> BinaryIO:
    """One that is not there is empty."""
    try:
        return file.open("rb")
    except FileNotFoundError:
        return io.BytesIO()


def _rows_of(page: bytes, number: int, pages: _Pages) -> Iterator[Row]:
    """Of one page, whatever its header says of its kind and of the number of cells: both may be damaged."""
    start = _HEADER if number == 1 else 0
    lowest, at = PAGE, start + 8
    while at + 2 <= lowest:
        (cell,) = struct.unpack_from(">H", page, at)
        at += 2
        if not start + 8 <= cell < PAGE:
            continue
        lowest = min(lowest, cell)
        try:
            rowid, payload = _cell(page, cell, pages)
            yield [rowid, *_record(payload)]
        except (IndexError, KeyError, ValueError, struct.error):
            continue


def _cell(page: bytes, at: int, pages: _Pages) -> tuple[int, bytes]:
    """The rowid and the record."""
    size, at = _varint(page, at)
    rowid, at = _varint(page, at)
    if size > pages.most:
        raise ValueError("longer than the file")
    local = size
    if size > _MAX_LOCAL:
        local = _MIN_LOCAL + (size - _MIN_LOCAL) % (PAGE - 4)
        local = local if local <= _MAX_LOCAL else _MIN_LOCAL
    parts, have = [page[at : at + local]], local
    if len(parts[0]) != local:
        raise ValueError("beyond the page")
    following = struct.unpack_from(">I", page, at + local)[0] if have < size else 0
    while have < size:
        more = pages[following]
        parts.append(more[4 : 4 + min(size - have, PAGE - 4)])
        have += len(parts[-1])
        (following,) = struct.unpack_from(">I", more)
    return rowid, b"".join(parts)


def _record(payload: bytes) -> Row:
    end, at = _varint(payload, 0)
    kinds = []
    while at < end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values: Row = []
    at = end
    for kind in kinds:
        size = (kind - 12) // 2 if kind >= 12 else _INTEGER_BYTES[kind]
        raw = payload[at : at + size]
        if len(raw) != size:
            raise ValueError("beyond the record")
        if kind >= 12:
            values.append(raw)
        elif kind in (8, 9):
            values.append(kind - 8)
        else:
            values.append(int.from_bytes(raw, "big", signed=True) if kind else None)
        at += size
    return values


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for _ in range(8):
        byte = data[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    return value << 8 | data[at], at + 1
