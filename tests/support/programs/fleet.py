"""The programs of a fleet as the demonstration starts them, `registry` and `agent` forked with their imports done."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from scripts.demo import processes
from scripts.demo.processes import BIN
from tests.support.programs import warm_start


class _Program(processes.Process):
    """`registry` and `agent` are forked, everything else is started as always."""

    def spawn(self) -> warm_start.Started | subprocess.Popen[bytes]:  # type: ignore[override]  # as Popen, for what is used
        program = Path(self.argv[0])
        if program.parent != BIN or program.name not in ("registry", "agent"):
            return super().spawn()
        return warm_start.start([program.name, *self.argv[1:]], self.env, self.log)


class Fleet(processes.Fleet):
    """A broker, a registry and agents with their data below one folder. Use as a context manager."""

    program = _Program

    def run_command(self, arguments: list[str], env: Mapping[str, str]) -> tuple[int, str, str]:
        """A forked `registry`."""
        ran = warm_start.run(["registry", *arguments], Path.cwd(), env)
        return ran.returncode, ran.stdout, ran.stderr
