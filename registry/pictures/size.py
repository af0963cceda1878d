"""How large a picture is, without decoding it. Pure."""

from __future__ import annotations

import struct

from registry.pictures.bare import PictureError, bare

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG that begin a frame and have its size (ITU-T T.81, table B.1)."""


def shown_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels as a viewer shows the picture, after its EXIF orientation. Raises PictureError."""
    found = bare(data)
    width, height = _png(found.data) if found.data.startswith(b"\x89") else _jpeg(found.data)
    if not width or not height:
        raise PictureError("the picture has no size")
    return (height, width) if found.orientation >= 5 else (width, height)


def _png(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR" or len(data) < 24:
        raise PictureError("the PNG does not begin with its header")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _jpeg(data: bytes) -> tuple[int, int]:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise PictureError("the JPEG has no frame")
