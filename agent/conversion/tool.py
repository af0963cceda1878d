"""Runs one command of a toolchain: bounded in time and in what is kept of its output, and with nothing left running.

The command gets a session of its own, which its sandbox keeps it from leaving. When it ends, takes too long or is
cancelled, everything in its process group is killed, before the leader is reaped, so that its number cannot have become
another's. The leader is a guard of ours that does the same when this process is killed, and looks for descendants that
left the group, where the kernel has no such sandbox.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from agent.conversion.base import CHILDREN, Ran
from agent.errors import AgentError, PermanentError
from registry.contracts.codes import JobCode
from registry.sandbox import ends

HEAD_BYTES, TAIL_BYTES = 16 << 10, 48 << 10
"""Of the output, what is kept: the first error is at the beginning, the verdict at the end."""
POLL_S = 0.05
KILL_WAIT_S = 5.0
GUARD_WAIT_S = 2.0
GUARD = str(CHILDREN / "guard.py")
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")
_PASSED_ON_PREFIX = ("ASCEND_", "TOOLCHAIN_HOME", "TBE_", "OPP_")


class CancelledError(AgentError):
    """Nobody wants the result any more."""

    def __init__(self) -> None:
        super().__init__(JobCode.JOB_CANCELLED, "cancelled")


class _Output:
    """The beginning and the end of a stream."""

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self._head, self._tail, self._dropped = b"", b"", 0
        self._thread = threading.Thread(target=self._read, name="tool-output", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._stream, 1 << 16):
                room = HEAD_BYTES - len(self._head)
                self._head += data[:room]
                tail = self._tail + data[room:] if room > 0 else self._tail + data
                self._dropped += max(0, len(tail) - TAIL_BYTES)
                self._tail = tail[-TAIL_BYTES:]

    def text(self) -> str:
        """After the stream's end, or KILL_WAIT_S."""
        self._thread.join(KILL_WAIT_S)
        gap = f"\n[... {self._dropped} bytes ...]\n".encode() if self._dropped else b""
        return (self._head + gap + self._tail).decode("utf-8", "replace")


def run(
    command: Sequence[str],
    *,
    folder: Path,
    timeout_s: float,
    cancel: threading.Event,
) -> Ran:
    """Runs `command` in `folder`.

    Raises:
        PermanentError: tool_missing, it cannot be started; tool_timeout, it was killed.
        CancelledError: `cancel` was set; it was killed.
    """
    if shutil.which(command[0]) is None:
        raise PermanentError(JobCode.TOOL_MISSING, f"{command[0]} is not there, or is not a program: install it")
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", GUARD, *command],
            cwd=folder,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=writing,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        os.close(reading)
        raise PermanentError(JobCode.TOOL_MISSING, f"no process can be started: {error.strerror}") from None
    finally:
        os.close(writing)
    with process, os.fdopen(reading, "rb") as stream:
        output = _Output(stream.fileno())
        try:
            _wait(process.pid, time.monotonic() + timeout_s, cancel, f"{Path(command[0]).name}: {timeout_s:g} s")
        finally:
            assert process.stdin is not None  # noqa: S101 - it was opened as a pipe
            process.stdin.close()  # the guard then ends what it finds, also outside of its group
            ends.has_ended(process, GUARD_WAIT_S)
            ends.kill_group(process)
            code = process.wait(KILL_WAIT_S)
            text = output.text()
    return Ran(code, text)


def _wait(pid: int, deadline: float, cancel: threading.Event, what: str) -> None:
    """Until the process ended; it is not reaped."""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if cancel.wait(POLL_S):
            raise CancelledError
        if time.monotonic() > deadline:
            raise PermanentError(
                JobCode.TOOL_TIMEOUT,
                f"{what} were not enough: it was killed with all that it had started. Large models take long; "
                "give it more time (--timeout), or look whether it hangs",
            )


def _environment() -> dict[str, str]:
    """What tools need of ours: where their libraries are. No secret of the agent's settings."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or any(name.startswith(prefix) for prefix in _PASSED_ON_PREFIX)
    }
