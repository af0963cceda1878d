"""Runs `registry` as a person's shell would: a process of its own, in a home without tokens unless given one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.programs import warm_start


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """stdout as JSON."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error that --json prints on stderr, its last line."""
        return json.loads(self.err.strip().splitlines()[-1])["error"]


class Cli:
    """Commands against one registry.

    Args:
        folder: Working directory and home.
        url: The registry.
        token: Given in the environment; None: none.
    """

    def __init__(self, folder: Path, url: str, token: str | None) -> None:
        self.folder = folder
        self.url = url
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("MODELFLEET_", "XDG_"))}
        self.environment = clean | {"MODELFLEET_REGISTRY": url, "HOME": str(folder)}
        if token is not None:
            self.environment["MODELFLEET_TOKEN"] = token

    def __call__(self, *arguments: object, code: int | None = 0, **environment: str) -> Ran:
        """Run to the end (two minutes at most); `code` is the exit status that is expected, None: any."""
        words = ["registry", *(str(argument) for argument in arguments)]
        done = warm_start.run(words, self.folder, self.environment | environment)
        ran = Ran(done.returncode, done.stdout, done.stderr)
        assert code is None or ran.code == code, ran
        return ran

    def on_terminal(self, *arguments: object, columns: int = 80, interrupt_at: str = "", code: int = 0) -> str:
        """What a person sees on a terminal of that width within a minute; Ctrl-C at `interrupt_at`, and again
        until a line ends: one between the question and the read that waits for its answer is not noticed."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        command = [sys.executable, "-m", "registry", *(str(argument) for argument in arguments)]
        environment = {key: value for key, value in self.environment.items() if key not in ("COLUMNS", "LINES")}
        environment["TERM"] = (
            "dumb"  # what runs the tests may have set COLUMNS, which counts before the terminal's width
        )
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        seen, asked, deadline = b"", 0, time.monotonic() + 60
        try:
            while time.monotonic() < deadline:
                if select.select([ours], [], [], 1.0)[0]:
                    piece = _read(ours)
                    if not piece:
                        break
                    seen += piece
                    if asked or not interrupt_at or interrupt_at.encode() not in seen:
                        continue
                elif not asked or b"\n" in seen[asked:]:
                    continue
                asked = asked or len(seen)
                process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == code, seen
        finally:
            process.kill()
            process.wait()
            os.close(ours)
        return seen.decode().replace("\r", "")

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start it, for tests that interrupt."""
        return subprocess.Popen(
            [sys.executable, "-m", "registry", *(str(argument) for argument in arguments)],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def end(process: subprocess.Popen[str], how: signal.Signals) -> None:
    """Sends the signal, and again every 5 s for a minute: one that comes just before a blocking call is noticed only
    when that returns."""
    for _ in range(12):
        process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=5)
            return
    raise AssertionError(f"{process.args} does not end by {how.name}")


def _read(terminal: int) -> bytes:
    """Nothing when the other side is closed, which Linux says by an error."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
