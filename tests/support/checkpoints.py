"""Checkpoints as safetensors, without MindSpore: zeros of given shapes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


def safetensors(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """The file's bytes; every weight is FP32 zero."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(at)
