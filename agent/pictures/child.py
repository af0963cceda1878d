"""The program that works on pictures: limited before it sees one, killed by its parent when one takes too long.

Started as `python -I -m agent.pictures.child MEMORY_BYTES`; standard input is a stream socket, one job at a time:

    agent -> u32 header length, u64 body length, JSON of [PictureSteps] and the picture,
             or JSON of [Reading, Placement, DetectionLimits, [[name, datatype, shape, bytes], ...]] and the outputs
    child -> u8 status, u64 length, u32 width, u32 height, then
             of a picture the tensor's bytes, and the picture's size (OK),
             of outputs the boxes FP32 [n, 4], scores FP32 [n], classes INT64 [n], one after the other (OK),
             or a text (REFUSED: the fault of the picture, or of the outputs)

All numbers are little-endian. It ends when the agent hangs up or dies.
"""

from __future__ import annotations

import json
import socket
import struct
import sys

from registry import sandbox

REQUEST = struct.Struct("<IQ")
ANSWER = struct.Struct("<BQII")
OK, REFUSED = 0, 1


def main() -> None:
    """Serves one socket until it closes."""
    sandbox.die_with_parent(True)
    memory_bytes = int(sys.argv[1])
    sandbox.limit(memory_bytes)
    sandbox.confine([])
    # Only now: Landlock holds for the threads that start after it, and NumPy starts some.
    from agent.pictures.work import RefusedError, work  # noqa: PLC0415

    control = socket.socket(fileno=0)
    while head := _exactly(control, REQUEST.size):
        header, size = REQUEST.unpack(head)
        said = json.loads(_exactly(control, header))
        body = _exactly(control, size)
        wide = high = 0
        try:
            status = OK
            answer, (wide, high) = work(said, body)
        except RefusedError as error:
            status, answer = REFUSED, str(error).encode("utf-8", "replace")
        except MemoryError:
            text = f"it takes more than the {memory_bytes >> 20} MiB of memory that may be used for it"
            status, answer = REFUSED, text.encode()
        control.sendall(ANSWER.pack(status, len(answer), wide, high))
        control.sendall(answer)


def _exactly(control: socket.socket, size: int) -> bytes:
    """So many bytes; nothing when the agent hung up."""
    parts, left = [], size
    while left and (data := control.recv(min(left, 1 << 20))):
        parts.append(data)
        left -= len(data)
    return b"".join(parts) if not left else b""


if __name__ == "__main__":
    main()
