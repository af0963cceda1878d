"""Runs one command in a sandbox, and kills it and all that it started when it ends, and when whoever holds our standard
input is gone.

`guard.py COMMAND ...`, started as the leader of a session, in the folder that the command may write. Its exit status is
the command's; 128 and the signal's number when one killed it. Started by file path: standard library only, Python 3.9
syntax.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

if __name__ == "__main__":
    # Only this one package becomes importable, not what lies beside it.
    package = types.ModuleType("registry")
    package.__path__ = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "registry")]
    sys.modules["registry"] = package

from registry import sandbox
from registry.sandbox import ends

_OPEN_FILES = 4096
"""A compiler opens many; a worker does not."""
_ROUNDS, _PAUSE_S = 100, 0.01


def _end_rest() -> None:
    """Kill what the command started and left, also outside our group: for kernels where the sandbox keeps nobody from
    leaving it. Each round finds what has come to us because its parent ended."""
    for _ in range(_ROUNDS):
        if not (found := ends.descendants(os.getpid())):
            return
        for number in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
        time.sleep(_PAUSE_S)


def _hold() -> None:
    """Blocks until the other end of standard input is closed: by our parent, or by its end, however it came."""
    while os.read(0, 1024):
        pass
    _end_rest()
    os.killpg(0, signal.SIGKILL)


def _folders(command: str) -> list[str]:
    """Where the command and its interpreter lie, what the vendor's variables name, and our own package."""
    program = shutil.which(command) or command
    places = [os.path.dirname(os.path.dirname(path)) for path in (os.path.abspath(program), os.path.realpath(program))]
    named = [value for name, value in os.environ.items() if name.startswith(("ASCEND_", "TOOLCHAIN_", "TBE_", "OPP_"))]
    for value in (*named, os.environ.get("PATH", ""), os.environ.get("PYTHONPATH", "")):
        places += value.split(":")
    here = os.path.dirname(os.path.abspath(__file__))
    return [place for place in places if os.path.isabs(place) and place != "/"] + [
        os.path.dirname(os.path.dirname(here))
    ]


def main() -> None:
    """Starts the command, waits for it."""
    sandbox.adopt_orphans()
    sandbox.limit(None, writes=True, files=_OPEN_FILES)
    sandbox.confine([], write=[os.getcwd()], tools=[os.getcwd(), *_folders(sys.argv[1])])
    # What a compiler keeps in its user's home, or for a while, stays in the folder and goes with it.
    environment = {**os.environ, "HOME": os.getcwd(), "TMPDIR": os.getcwd()}
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, env=environment)
    threading.Thread(target=_hold, daemon=True).start()
    code = command.wait()
    _end_rest()
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
