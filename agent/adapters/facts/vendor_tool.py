"""Runs a vendor's command (npu-smi, a probe of our own) that may be missing, hang, or say too much.

It gets no shell, the C locale, an environment of a few variables, a deadline and a limit of output. Whatever it left
running is killed with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.worker.spawn import printable

MAX_OUTPUT_BYTES = 256 << 10
REASON_CHARS = 300
"""Of what a tool said, in a reason."""
TIMEOUT_S = 10.0
_GONE_S = 2.0
"""So long a killed command may take to end; one that hangs in the kernel is left to it."""
_PASSED = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")


class ToolError(Exception):
    """Why the command gave no answer; one printable line."""


def find_tool(name: str, folders: Sequence[str], environ: Mapping[str, str]) -> Path | None:
    """The command in PATH, then in the vendor's own folders."""
    found = shutil.which(name, path=os.pathsep.join([environ.get("PATH", ""), *folders]))
    return Path(found).absolute() if found else None


def run_tool(
    command: Sequence[str], environ: Mapping[str, str], *, timeout_s: float = TIMEOUT_S, limit: int = MAX_OUTPUT_BYTES
) -> str:
    """What the command printed, on stdout or stderr.

    Raises:
        ToolError: it does not start, takes too long, prints too much, or ends with an error.
    """
    given = {name: environ[name] for name in _PASSED if name in environ}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**given, "LC_ALL": "C", "LANG": "C"},
            start_new_session=True,
        )
    except OSError as error:
        raise ToolError(f"{command[0]} does not start: {error.strerror}") from None
    deadline = time.monotonic() + timeout_s
    try:
        text = _read(process, deadline, limit).decode("utf-8", "replace")
        status = process.wait(max(deadline - time.monotonic(), 0.1))
    except TimeoutError:
        raise ToolError(f"{command[0]} did not answer within {timeout_s:.0f} s") from None
    except subprocess.TimeoutExpired:
        raise ToolError(f"{command[0]} answered and did not end within {timeout_s:.0f} s") from None
    finally:
        _end(process)
    if status != 0:
        raise ToolError(f"{command[0]} ended with status {status}: {printable(text, REASON_CHARS)}")
    return text


def _read(process: subprocess.Popen[bytes], deadline: float, limit: int) -> bytes:
    if process.stdout is None:
        raise ToolError("no pipe to the command")
    descriptor, data = process.stdout.fileno(), b""
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(deadline - time.monotonic(), 0.0))
        if not ready:
            raise TimeoutError
        part = os.read(descriptor, 1 << 16)
        if not part:
            return data
        data += part
        if len(data) > limit:
            raise ToolError(f"{process.args[0]!s} printed more than {limit} bytes")  # type: ignore[index]


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GONE_S)
    if process.stdout is not None:
        process.stdout.close()
