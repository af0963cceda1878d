"""A report of steps, as Markdown for people and as JSON for programs.

Both files are written again after each step, so a check that is killed leaves what it found.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["passed", "failed", "skipped"]


class SkipError(Exception):
    """The step cannot be done on this host; the text says why."""


class CheckError(Exception):
    """What the step checks does not hold; the text says what was found."""


@dataclass
class Step:
    """One step of a check: what it found, as Markdown lines and as data."""

    name: str
    state: State = "passed"
    reason: str = ""
    seconds: float = 0.0
    lines: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Adds a paragraph."""
        self.lines += [text, ""]

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Adds a table."""
        self.lines.append(f"| {' | '.join(head)} |")
        self.lines.append(f"|{'---|' * len(head)}")
        self.lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
        self.lines.append("")

    def block(self, text: str) -> None:
        """Adds a program's output."""
        self.lines += ["```", text.rstrip(), "```", ""]


class Report:
    """Runs steps one after the other, each with a deadline, all of them within `budget_s`."""

    def __init__(self, title: str, folder: Path, name: str, budget_s: float) -> None:
        self.title, self.steps = title, list[Step]()
        self.markdown, self.json = folder / f"{name}.md", folder / f"{name}.json"
        self._began = time.monotonic()
        self._budget_s = budget_s
        self._date = time.strftime("%Y-%m-%d %H:%M %z")
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def left_s(self) -> float:
        """Seconds until the budget is spent."""
        return self._began + self._budget_s - time.monotonic()

    @property
    def failed(self) -> bool:
        """Did a step fail?"""
        return any(step.state == "failed" for step in self.steps)

    def run(self, name: str, action: Callable[[Step], None], limit_s: float) -> Step:
        """Runs a step. It ends after `limit_s`, or when the budget of the whole check is spent; it never raises."""
        step = Step(name)
        self.steps.append(step)
        print(f"{name} ...", flush=True)
        began = time.monotonic()
        try:
            if self.left_s < 5:
                raise SkipError("the time for the whole check is spent")  # noqa: TRY301 - one place says how a step ended
            with _deadline(min(limit_s, self.left_s)):
                action(step)
        except SkipError as error:
            step.state, step.reason = "skipped", str(error)
        except (CheckError, TimeoutError, subprocess.TimeoutExpired) as error:
            step.state, step.reason = "failed", str(error)
        except Exception as error:  # noqa: BLE001 - the other steps are done all the same
            step.state, step.reason = "failed", f"{type(error).__name__}: {error}"
            step.block(traceback.format_exc()[-3000:])
        step.seconds = time.monotonic() - began
        print(f"  {step.state} in {step.seconds:.1f} s{': ' + step.reason if step.reason else ''}", flush=True)
        self.write()
        return step

    def write(self) -> None:
        """Writes both files."""
        rows = [f"| {s.name} | {s.state} | {s.seconds:.1f} s | {_cell(s.reason)} |" for s in self.steps]
        lines = [
            f"# {self.title}",
            "",
            f"{self._date}, {_host()}",
            "",
            "| step | result | took | |",
            "|---|---|---|---|",
        ]
        lines += [*rows, ""]
        for step in self.steps:
            lines += [f"## {step.name}", "", *step.lines]
        self.markdown.write_text("\n".join(lines).rstrip() + "\n")
        document = {"title": self.title, "date": self._date, "host": _host(), "steps": [vars(s) for s in self.steps]}
        self.json.write_text(json.dumps(document, indent=1, default=str) + "\n")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:500]


def _host() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {sys.version.split()[0]}"


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """TimeoutError in the main thread after `seconds`."""

    def over(_number: int, _frame: object) -> None:
        raise TimeoutError(f"not done within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def output_of(*argv: str, limit_s: float = 60, env: dict[str, str] | None = None, check: bool = False) -> str:
    """What a program prints, stderr too; a program that is not there raises SkipError."""
    try:
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=limit_s,
            env=env, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise SkipError(f"{argv[0]} is not here") from None
    if check and done.returncode:
        raise CheckError(f"{' '.join(argv)}: exit code {done.returncode}: {done.stdout[-1500:]}")
    return done.stdout
