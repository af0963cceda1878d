"""The command line that all hardware checks share."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from scripts.hardware_check.report import Report

REHEARSAL = 4
"""A rehearsal may take so many times as long: it runs beside other things."""


class Check(Protocol):
    """The steps of a check are methods by their names in the table of steps; each takes a Step."""

    def __init__(self, folder: Path, *, rehearse: bool, quick: bool) -> None: ...

    def close(self) -> None:
        """Stops what was started."""


def run_check(name: str, title: str, doc: str, steps: Mapping[str, float], kind: type[Check]) -> int:
    """Runs the steps that were asked for, each within its limit in seconds; the exit code. `name` is the program's."""
    parser = argparse.ArgumentParser(
        prog=f"scripts/{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rehearse", action="store_true", help="without the hardware, to try the check itself")
    parser.add_argument("--quick", action="store_true", help="short measurements: figures mean little")
    parser.add_argument("--only", default=",".join(steps), help=f"steps, of {', '.join(steps)}")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the report (default: here)")
    parser.add_argument("--budget", type=float, default=480, help="seconds for the whole check (default: %(default)s)")
    arguments: Any = parser.parse_args()
    wanted = arguments.only.split(",")
    unknown = [step for step in wanted if step not in steps]
    if unknown:
        parser.error(f"no step is named {', '.join(unknown)}; there are {', '.join(steps)}")
    report = Report(
        title + (": rehearsed without it" if arguments.rehearse else ""), arguments.out, name, arguments.budget
    )
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        check = kind(Path(folder), rehearse=arguments.rehearse, quick=arguments.quick)
        try:
            for step, limit in steps.items():
                if step in wanted:
                    report.run(step, getattr(check, step), limit * (REHEARSAL if arguments.rehearse else 1))
        finally:
            check.close()
    print(f"report: {report.markdown} and {report.json}")
    return 1 if report.failed else 0
