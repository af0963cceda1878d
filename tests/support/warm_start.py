"""Runs `registry` in a process of its own that was forked from one in which its imports are done already.

A command of `registry` takes half a second of processor time to import what it needs, and the suite runs hundreds of
them. Everything else is as from a shell: environment, working directory, file descriptors, exit status.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

from registry.cli.main import COMMANDS


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([entry.partition(":")[0] for entry in COMMANDS.values()])
    return context


_CONTEXT = _context()


def run_registry(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], out: Path, err: Path
) -> int | None:
    """`python -m registry arguments` in that folder with that environment, its output into two files.

    Returns:
        The exit status; None when it did not end within 60 s, and was killed.
    """
    process = _CONTEXT.Process(target=_run, args=(tuple(arguments), folder, dict(environment), out, err))
    process.start()
    try:
        process.join(60)
        return process.exitcode
    finally:
        process.kill()
        process.join()
        process.close()


def _run(arguments: tuple[str, ...], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    """In the new process."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["registry", *arguments]
    runpy.run_module("registry", run_name="__main__", alter_sys=True)
