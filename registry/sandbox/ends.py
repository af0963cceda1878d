"""The end of a process that holds a model, with all that it started. For the side that started it, in a session of its
own: its number then is that of its group, and stays so as long as it is not reaped.

Standard library only, Python 3.9 syntax.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from typing import Any

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0005, 0.05


def has_ended(process: subprocess.Popen[Any], within_s: float = 0.0) -> bool:
    """Does it end by itself within so many seconds? It is not reaped, so that `kill_group` may still name its group."""
    deadline, pause = time.monotonic() + within_s, _FIRST_PAUSE_S
    while process.returncode is None:
        try:
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
        except ChildProcessError:  # somebody else has reaped it
            return True
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE_S)
    return True


def kill_group(process: subprocess.Popen[Any]) -> None:
    """SIGKILL to it and to all that it started and that lives yet, whether it has ended or not; does not wait.

    Nothing where it was reaped before: its number may be another's by now.
    """
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):  # all of them have ended
            os.killpg(process.pid, signal.SIGKILL)


def end_group(process: subprocess.Popen[Any], wait_s: float) -> int | None:
    """Kill it and all that it started, and reap it. Its status; None: it does not end within so many seconds."""
    kill_group(process)
    with suppress(subprocess.TimeoutExpired):
        process.wait(wait_s)
    return process.returncode


def descendants(pid: int) -> list[int]:
    """Processes below this one that live, as /proc shows them now."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        with suppress(OSError, ValueError, IndexError):  # it has ended
            if name.isdigit():
                with open(f"/proc/{name}/stat", "rb") as file:
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state not in (b"Z", b"X"):
                    parents[int(name)] = int(parent)
    found, new = [], [pid]
    while new:
        new = [each for each, parent in parents.items() if parent in new]
        found += new
    return found
