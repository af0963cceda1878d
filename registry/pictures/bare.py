"""What of a JPEG or PNG makes pixels, without the rest; the orientation; and what decoding may cost. Pure.

Only this goes to the decoder: a picture with good pixels and odd metadata is a good picture. Of the metadata, only the
EXIF orientation is read (tag 0x0112 of the first directory: CIPA DC-008, 4.6.4); where it cannot be read there is none.

JPEG (ITU-T T.81, annex B): APPn segments and comments are dropped, but for APP0 (JFIF) and APP14 (Adobe), which say how
colours are coded, and so is what follows the end of the image: cameras append films and further pictures.
PNG (W3C PNG, 3rd edition, 11): the chunks IHDR, PLTE, tRNS, IDAT and IEND stay.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

MAX_SCANS = 100
"""Of a JPEG. Encoders write 1 to 13; each is a pass over all pixels, so a small file may ask for hours of work."""
MAX_PASSES = 1_000_000_000
"""Pixels times scans."""
MAX_PIXELS = 50_000_000
"""Of a picture before it is resized, whatever its model allows: 150 MB as RGB."""
_KINDS = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))
_KEPT_SEGMENTS = (0xE0, 0xEE)
_KEPT_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_EXIF_HEAD = b"Exif\0\0"
_ORIENTATION = 0x0112
_MAX_EXIF_ENTRIES = 1000
_START_OF_SCAN, _END = 0xDA, 0xD9
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes of an interlaced PNG: first column and row, and every how many of each (W3C PNG, 8.1)."""
_PIECE = 1 << 18
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)
"""A marker in coded data; 0xFF before 0x00 is data, and TEM and restarts have no segment."""


class PictureError(ValueError):
    """This cannot be decoded, or would cost too much. The message says what was expected and what came."""


class Bare(NamedTuple):
    """A picture without its metadata."""

    data: bytes
    orientation: int
    """1 to 8, as EXIF says; 1: as it is."""


def sniff(data: bytes | bytearray | memoryview) -> str:
    """The content type of a picture by its first bytes; empty when it is none that is taken."""
    start = bytes(data[:8])
    return next((kind for magic, kind in _KINDS if start.startswith(magic)), "")


def bare(data: bytes) -> Bare:
    """The picture without metadata. Raises PictureError when it is none, or has too many scans."""
    kind = sniff(data)
    if not kind:
        raise PictureError(f"expected a JPEG or PNG, got {len(data)} bytes that begin with {data[:8]!r}")
    return _bare_png(data) if kind == "image/png" else _bare_jpeg(data)


def check_cost(width: int, height: int, data: bytes, max_pixels: int = MAX_PIXELS) -> None:
    """Refuses what would take too long or too much memory. Raises PictureError."""
    pixels = width * height
    if pixels > max_pixels:
        raise PictureError(f"expected at most {max_pixels} pixels, got {width} x {height}")
    # In the coded data of a JPEG 0xFF is followed by 0x00 or a restart, and its APPn segments are gone.
    scans = data.count(b"\xff\xda") if data.startswith(b"\xff\xd8") else 0
    if scans > MAX_SCANS or scans * pixels > MAX_PASSES:
        raise PictureError(f"expected a JPEG of at most {MAX_SCANS} scans, got {scans} over {width} x {height} pixels")


def _bare_jpeg(data: bytes) -> Bare:
    kept, at = [data[:2]], 2
    exif: bytes | None = None
    while True:
        start = at
        while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] == b"\xff":
            at += 1  # fill bytes may stand before a marker
        if len(data) < at + 4 or data[at] != 0xFF:
            # Not as the standard has it: the decoder may still make sense of it.
            return Bare(data, _orientation(exif or b""))
        marker, (length,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
        if marker in (_START_OF_SCAN, _END):
            kept.append(data[start : _end_of_image(data, at)])
            return Bare(b"".join(kept), _orientation(exif or b""))
        end = at + 2 + length
        if marker == 0xE1 and exif is None and data[at + 4 : at + 10] == _EXIF_HEAD:
            exif = data[at + 10 : end]  # more of these go on with the first, where that is over 64 kB
        if (not 0xE0 <= marker <= 0xEF and marker != 0xFE) or marker in _KEPT_SEGMENTS:
            kept.append(data[start:end])
        at = end


def _end_of_image(data: bytes, at: int) -> int:
    """After the end marker of the JPEG whose coded data begins at marker `at`; where there is none, after all."""
    while (found := _MARKER.search(data, at)) is not None:
        at = found.end()
        if data[at - 1] == _END:
            return at
        if len(data) < at + 2:
            break
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return len(data)


def _bare_png(data: bytes) -> Bare:
    kept, orientation = [data[:8]], 1
    for kind, start, end in _chunks(data):
        if kind in _KEPT_CHUNKS:
            kept.append(data[start:end])
        elif kind == b"eXIf":
            orientation = _orientation(data[start + 8 : end - 4])
        elif not kind[0] & 0x20:
            raise PictureError(f"the PNG needs its chunk {kind!r} to be read, which the standard does not have")
    return Bare(b"".join(kept), orientation)


def check_whole_png(data: bytes) -> None:
    """Refuses a PNG whose coded data ends before its last row, which decoders leave black. Raises PictureError."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    parts = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in parts]
    missing = sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)
    stream = zlib.decompressobj()
    try:
        for kind, start, end in _chunks(data):
            coded = data[start + 8 : end - 4] if kind == b"IDAT" else b""
            while coded and missing > 0:
                missing -= len(stream.decompress(coded, _PIECE))
                coded = stream.unconsumed_tail
    except zlib.error as error:
        raise PictureError(f"the PNG's coded data is damaged: {error}") from None
    if missing > 0:
        raise PictureError(f"the PNG's coded data ends {missing} bytes before its last row of {width} x {height}")


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of each chunk with its length and checksum; a last one that is cut off ends with the data."""
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = min(at + 12 + length, len(data))
        yield kind, at, end
        if kind == b"IEND":
            return
        at = end


def _orientation(exif: bytes) -> int:
    """Of a TIFF structure; 1 where it says nothing that can be read."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is None:
            return 1
        (at,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * min(count, _MAX_EXIF_ENTRIES), 12):
            tag, kind, values = struct.unpack_from(order + "HHI", exif, entry)
            if tag == _ORIENTATION and values == 1 and kind in (3, 4):  # SHORT, as the standard says, or LONG
                (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), exif, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
