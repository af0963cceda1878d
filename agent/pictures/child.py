"""The program that decodes pictures: limited before it sees one, killed by its parent when one takes too long.

Started as `python -I -m agent.pictures.child MEMORY_BYTES`; standard input is a stream socket, one picture at a time:

    agent -> u32 header length, u64 picture length, JSON of Steps, the picture
    child -> u8 status, u64 length, then the tensor's bytes (OK) or a text (REFUSED: the picture's fault)

All numbers are little-endian. It ends when the agent hangs up or dies.
"""

from __future__ import annotations

import json
import socket
import struct
import sys

from registry import sandbox

REQUEST = struct.Struct("<IQ")
ANSWER = struct.Struct("<BQ")
OK, REFUSED = 0, 1


def main() -> None:
    """Serves one socket until it closes."""
    sandbox.die_with_parent(True)
    memory_bytes = int(sys.argv[1])
    sandbox.limit(memory_bytes)
    sandbox.confine([])
    # Only now: Landlock holds for the threads that start after it, and NumPy starts some.
    from registry.pictures.bare import PictureError  # noqa: PLC0415
    from registry.pictures.decode import decode  # noqa: PLC0415
    from registry.pictures.steps import PictureSteps  # noqa: PLC0415

    control = socket.socket(fileno=0)
    while head := _exactly(control, REQUEST.size):
        header, size = REQUEST.unpack(head)
        said = json.loads(_exactly(control, header))
        steps = PictureSteps._make(tuple(part) if isinstance(part, list) else part for part in said)
        picture = _exactly(control, size)
        try:
            status, answer = OK, decode(steps, picture)
        except PictureError as error:
            status, answer = REFUSED, str(error).encode("utf-8", "replace")
        except MemoryError:
            text = f"the picture takes more than the {memory_bytes >> 20} MiB of memory that decoding may use"
            status, answer = REFUSED, text.encode()
        control.sendall(ANSWER.pack(status, len(answer)))
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
