"""Whether a virtual environment is whole. Run by its own interpreter:

    FOLDER/bin/python -I scripts/lib/whole.py FOLDER WANT [VERSION]

Exit codes: 0 it is, and it was finished with WANT (or WANT is `any`); 3 it is, but was finished with something else;
1 it is not, and stdout says why: its installation was interrupted, its files are missing or empty (as a power cut
leaves them), it was moved or copied from elsewhere, or its interpreter is not the VERSION asked for, or another one
than the packages in it are for. Standard library only, Python 3.9 syntax: its interpreter may be too old.
"""

from __future__ import annotations

import csv
import re
import sys
import sysconfig
from pathlib import Path

STAMP = ".modelfleet-lock"
INTERPRETER = re.compile(rb"(/[^\n'\"]*)/python[0-9.]*")


def moved(folder: Path) -> bool:
    """Do the programs in it start the interpreter of another folder?"""
    head = (folder / "bin" / "pip").read_bytes()[:1000]
    found = INTERPRETER.search(head)
    if found is None:
        return False
    elsewhere = Path(found[1].decode("utf-8", "surrogateescape"))
    return not elsewhere.exists() or not elsewhere.samefile(folder / "bin")


def damaged(packages: Path) -> str:
    """The first installed file that is not there or empty, by what pip recorded; empty when all are there."""
    records = sorted(packages.glob("*.dist-info"))
    for record in (folder / "RECORD" for folder in records):
        if not record.is_file():
            return str(record)
        with record.open(newline="", encoding="utf-8") as lines:
            for name, _, size in csv.reader(lines):
                if not size.isdecimal() or int(size) == 0:
                    continue  # compiled by pip, or empty by intention
                try:
                    there = (packages / name).stat().st_size
                except OSError:
                    there = 0
                if there == 0:
                    return name
    return "" if any(record.name.startswith("pip-") for record in records) else "pip"


def fault(folder: Path, version: str) -> str:
    """Why it is not whole; empty when it is."""
    runs = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not (folder / STAMP).is_file():
        return "its installation was not finished"
    if version not in ("", runs):
        return f"it has Python {runs}, and PYTHON names {version}"
    if not (folder / "pyvenv.cfg").is_file() or not Path(sys.prefix).samefile(folder):
        return f"its interpreter belongs to {sys.prefix}"
    packages = Path(sysconfig.get_path("purelib"))
    if not packages.is_dir():
        return f"nothing in it is for Python {runs}, which it has now"
    missing = damaged(packages)
    if missing:
        return f"{missing} is missing or empty"
    if moved(folder):
        return "it was moved or copied from another folder"
    return ""


def main() -> int:
    """The exit code."""
    folder, want = Path(sys.argv[1]).absolute(), sys.argv[2]
    try:
        why = fault(folder, sys.argv[3] if len(sys.argv) > 3 else "")
    except (OSError, ValueError) as error:
        why = str(error)
    if why:
        print(why)
        return 1
    finished_with = (folder / STAMP).read_text(encoding="utf-8", errors="replace").strip()
    return 0 if want in ("any", finished_with) else 3


if __name__ == "__main__":
    sys.exit(main())
