"""Where the plan begins in a file of a TensorRT engine: ultralytics writes a description of the model in front of it.

The description is JSON, and in front of it stand its bytes as an int32, little-endian. `trtexec` and TensorRT itself
write none, and TensorRT does not load a file that has one. Source: ultralytics, ultralytics/utils/export/engine.py
(formerly engine/exporter.py, `export_engine`) and nn/autobackend.py, which reads it so.

For inspection and for workers: standard library only, Python 3.9 syntax, no other module of ours.
"""

from __future__ import annotations

import json
from typing import Any, BinaryIO

MAX_DESCRIPTION_BYTES = 1 << 20
"""The names of 1,000 classes take 30 KB."""
_LENGTH_BYTES = 4


def read_description(file: BinaryIO, size: int) -> tuple[dict[str, Any] | None, int]:
    """The description, and where the plan behind it begins; None and 0 where the file has none.

    A plan's own first four bytes are `ftrt`, which as a length is far beyond the bound. Whatever else is not exactly a
    description stays a part of the plan, and is TensorRT's to refuse.

    Args:
        file: At its beginning.
        size: Of the file, in bytes.
    """
    head = file.read(_LENGTH_BYTES + 1)
    length = int.from_bytes(head[:_LENGTH_BYTES], "little", signed=True)
    begin = _LENGTH_BYTES + length
    if head[_LENGTH_BYTES:] != b"{" or not 2 <= length <= MAX_DESCRIPTION_BYTES or begin >= size:
        return None, 0
    text = b"{" + file.read(length - 1)
    try:
        said = json.loads(text)  # UTF-8, by its beginning
    except (ValueError, RecursionError):
        return None, 0
    return (said, begin) if isinstance(said, dict) else (None, 0)
