"""Checkpoints as safetensors, without MindSpore: one number in given shapes."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping


def safetensors(shapes: Mapping[str, tuple[int, ...]], value: float = 0.0) -> bytes:
    """The file's bytes; every weight is this FP32 number."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + struct.pack("<f", value) * (at // 4)
