"""A SIMULATED atc in a folder of its own, which goes as a test wants."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("atc")
OM = Path(__file__).parents[1] / "simulated_acl" / "om.py"


def simulated_atc(folder: Path, mode: str = "") -> Path:
    """A program `atc` in `folder`, with all that it needs: it runs in a sandbox. `mode`: see the script."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "atc"
    shutil.copy(SCRIPT, folder / "simulated_atc.py")
    shutil.copy(OM, folder / "simulated_om.py")
    script = shlex.quote(str(folder / "simulated_atc.py"))
    program.write_text(
        f'#!/bin/sh\nSIMULATED_ATC={shlex.quote(mode)} exec {shlex.quote(sys.executable)} -B {script} "$@"\n'
    )
    program.chmod(0o755)
    return program


def running(folder: Path) -> list[int]:
    """The processes of a simulated atc that hangs: itself and the one that it started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = entry.joinpath("cmdline").read_bytes().split(b"\0")
            status = entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[0]
            if status != "Z" and bytes(folder / "simulated_atc.py") in arguments:
                found.append(int(entry.name))
    return found
