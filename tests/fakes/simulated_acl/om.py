"""Simulated OM files: an OM header around an ONNX file. No CANN would load one, and ATC never made one."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

SIMULATED_CANN = Path(__file__).parent / "cann"
"""What ASCEND_TOOLKIT_HOME names, for a worker that shall find the simulated `acl`."""
SIMULATED_SOC = "Ascend310P3-simulated"


def simulated_om(
    onnx: bytes,
    gears: Sequence[int | Sequence[int]] = (),
    *,
    kind: str = "batch",
    soc: str = SIMULATED_SOC,
    **faults: Mapping[str, int] | Sequence[str] | Sequence[int] | int | str,
) -> bytes:
    """An OM that computes as `onnx` does.

    `gears`: by `kind`, batch: sizes of a leading dynamic dimension; image: [height, width] of the two dynamic
    dimensions; dims: the dimensions of all inputs in a row.

    `faults` may be: calls={call: the error number that it returns}, extra_input=a name, pad_inputs=bytes that each
    input takes more than its shape says, aipp_dims=what ACL says of an input whose picture has fewer bytes,
    external_weights=names of files that must lie in weight/ beside it, tell_end=acl.finalize says that it was called.
    """
    header = struct.pack("<4sII", b"IMOD", 256, 0x10000000).ljust(100, b"\0") + b"simulated OM"
    meta = json.dumps({"gears": list(gears), "kind": kind, "soc": soc, **faults}).encode()
    return header.ljust(256, b"\0") + struct.pack("<I", len(meta)) + meta + onnx
