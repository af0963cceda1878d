"""SIMULATED TensorRT builders: a module `tensorrt` and a program `trtexec`, which build nothing.

Both hold their caller to the documented calls, and write a file that begins with `simulated plan`.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

SITE = Path(__file__).with_name("site")
VERSION = "10.13.3.9"


def simulated_python(folder: Path, *, module: bool = True) -> Path:
    """An interpreter in whose environment is the simulated `tensorrt`, or none."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "python"
    if module:  # beside the interpreter, as the vendor's packages are: it runs in a sandbox
        shutil.copytree(SITE, folder / "site", dirs_exist_ok=True)
    site = f"PYTHONPATH={shlex.quote(str(folder / 'site'))} " if module else ""
    # `-I` is dropped: it would hide the folder that stands for the vendor's packages.
    program.write_text(f'#!/bin/sh\nshift\n{site}exec {shlex.quote(sys.executable)} "$@"\n')
    program.chmod(0o755)
    return program


def simulated_trtexec(folder: Path, *, code: int = 0) -> Path:
    """A `trtexec` that ends with `code`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "trtexec"
    program.write_text(
        "#!/bin/sh\n"
        'echo "&&&& RUNNING TensorRT.trtexec [TensorRT v101303] [b9] # trtexec $*"\n'
        'for part in "$@"; do case "$part" in --saveEngine=*) out="${part#--saveEngine=}";; esac; done\n'
        f"[ {code} = 0 ] || {{ echo '[E] Error[4]: the network cannot be built'; exit {code}; }}\n"
        'printf "simulated plan" > "$out"\n'
        'echo "&&&& PASSED TensorRT.trtexec"\n'
    )
    program.chmod(0o755)
    return program
