"""Runs `registry` and `agent` in processes of their own, forked from one in which their imports are done already.

A start of either takes one to two seconds of processor time to import what it needs, and the suite has hundreds.
Everything else is as from a shell: environment, working directory, file descriptors, session, signals, exit status.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from multiprocessing.context import ForkServerContext
from pathlib import Path

from registry.cli.main import COMMANDS

LIMIT_S = 120
OF_THE_SERVERS = (
    "registry.server.run",
    "registry.db.migrations.upgrade",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.dialects.postgresql.psycopg",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.lifespan.on",
    "agent.app.agent",
    "agent.app.doctor",
)
"""What `registry serve` and `agent` import when they run."""


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    commands = [entry.partition(":")[0] for entry in COMMANDS.values()]
    context.set_forkserver_preload([__name__, *commands, *OF_THE_SERVERS])
    return context


_CONTEXT = _context()


class Started:
    """A program that runs, with what the tests need of `subprocess.Popen`."""

    def __init__(self, argv: Sequence[str], folder: Path, environment: Mapping[str, str], out: Path, err: Path) -> None:
        """`python -m argv` in that folder with that environment; its output is appended to two files."""
        self.args = tuple(argv)
        given = (self.args, folder, dict(environment), out, err)
        self._process = _CONTEXT.Process(target=_run, args=given, daemon=True)
        self._process.start()
        self.pid = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once it has ended; subprocess.TimeoutExpired."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(
    argv: Sequence[str], environment: Mapping[str, str], log: Path | None = None
) -> Started | subprocess.Popen[bytes]:
    """`registry` or `agent` with arguments, in a session of its own, its output appended to `log`, if given.

    What the dynamic linker is to load before it takes effect only in a process that is not forked.
    """
    if "LD_PRELOAD" not in environment:
        return Started(argv, Path.cwd(), environment, log, log)
    command = [sys.executable, "-m", *argv]
    with nullcontext() if log is None else log.open("ab") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)


def run(argv: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`registry` or `agent` with arguments, to its end, in that folder with that environment.

    Raises:
        subprocess.TimeoutExpired: it did not end within two minutes, and was killed; with what it had said.
    """
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name) / "out", Path(name) / "err"
        process = Started(argv, folder, environment, out, err)
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired as expired:
            expired.output, expired.stderr = out.read_bytes(), err.read_bytes()
            raise
        finally:
            process.kill()
        return subprocess.CompletedProcess([*argv], code, out.read_text(), err.read_text())


def _run(argv: tuple[str, ...], folder: Path, environment: dict[str, str], out: Path | None, err: Path | None) -> None:
    """In the new process."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    for number, path in ((1, out), (2, err)):
        if path is None:
            continue
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.argv = [*argv]
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
