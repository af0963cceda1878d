"""Runs one command, and takes it and all that it started along when whoever holds our standard input is gone.

`guard.py COMMAND ...`, started as the leader of a session. Its exit status is the command's; 128 and the signal's
number when one killed it. Started by file path: standard library only, Python 3.9 syntax.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def _hold() -> None:
    """Blocks until the other end of standard input is closed: by our parent's end, however it came."""
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Starts the command, waits for it."""
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_hold, daemon=True).start()
    code = command.wait()
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
