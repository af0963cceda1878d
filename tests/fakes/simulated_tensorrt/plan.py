"""Simulated TensorRT plans: a header of our own around an ONNX file. No TensorRT would load one, and none made it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SIMULATED_VENDOR = Path(__file__).parent / "vendor"
"""What stands in sys.path for a process that shall find the simulated `tensorrt` and `cuda.bindings`."""
SIMULATED_VERSION = "10.13.3.9"

Profile = Mapping[str, Sequence[Sequence[int]]]


def simulated_plan(
    onnx: bytes,
    profiles: Sequence[Profile] = (),
    *,
    version: str = SIMULATED_VERSION,
    capability: tuple[int, int] = (8, 6),
    **traits: Any,
) -> bytes:
    """A plan that computes as `onnx` does. `profiles`: by input its smallest, best and largest shape.

    `traits` may be: host_code, no_context, refuses_to_run (True), on_host, vectorized, data_dependent (names of
    tensors), dtype (by name a DataType's).
    """
    meta = {"profiles": list(profiles), "version": version, "capability": capability, **traits}
    text = json.dumps(meta).encode()
    magic = b"simulated TensorRT plan\0"
    total = len(magic) + 12 + len(text) + len(onnx)
    return magic + struct.pack("<IQ", len(text), total) + text + onnx
