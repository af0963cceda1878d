"""A SIMULATED atc in a folder of its own, which goes as a test wants."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("atc")
ROOT = Path(__file__).parents[3]


def simulated_atc(folder: Path, mode: str = "") -> Path:
    """A program `atc` in `folder`. `mode`: as the script says. Of a hanging one `pids` beside it has the processes."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "atc"
    variables = {"SIMULATED_ATC": mode, "SIMULATED_ATC_PIDS": str(folder / "pids"), "SIMULATED_ATC_ROOT": str(ROOT)}
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    program.write_text(f'#!/bin/sh\n{settings} exec {shlex.quote(sys.executable)} -B {shlex.quote(str(SCRIPT))} "$@"\n')
    program.chmod(0o755)
    return program
