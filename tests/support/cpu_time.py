"""`--cpu`: the processor time of each test and all processes that it started, which other load on the machine does not
change as it changes wall time.

What a shared fixture uses is counted for the first test that asks for it, or the last that holds it.
A process whose parent was killed before it has left the tree, and is not counted.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

TICKS = os.sysconf("SC_CLK_TCK")
KEY = "cpu_s"
SHOWN, SHORT_S = 40, 0.1
PARENT, TIMES = 1, slice(11, 15)
"""Of the fields of /proc/PID/stat after the name: the parent, and utime, stime, cutime, cstime (proc(5))."""


def of_tree(root: int) -> float:
    """Seconds that a process, its descendants and all descendants that were waited for have used."""
    children: dict[int, list[int]] = defaultdict(list)
    used: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children[int(fields[PARENT])].append(int(entry.name))
        used[int(entry.name)] = sum(map(int, fields[TIMES]))
    total, todo = 0, [root]
    while todo:
        process = todo.pop()
        total += used.get(process, 0)
        todo.extend(children[process])
    return total / TICKS


class CpuTime:
    """The plugin, in each process that runs tests and in the one that reports."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._before = 0.0
        self._tests: dict[str, float] = defaultdict(float)
        self._outside: list[float] = []

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        """Before the set-up of the test's fixtures."""
        self._before = of_tree(os.getpid())
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """After they were torn down."""
        report = yield
        if call.when == "teardown":
            report.user_properties.append((KEY, of_tree(os.getpid()) - self._before))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """From any process."""
        self._tests[report.nodeid] += sum(float(str(value)) for key, value in report.user_properties if key == KEY)

    def pytest_sessionfinish(self) -> None:
        """What a process used beside its tests: to import and collect them."""
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[KEY] = of_tree(os.getpid())

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        """A process that ran tests has ended."""
        self._outside.append(float(getattr(node, "workeroutput", {}).get(KEY, 0.0)))

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """By folder, by file and by test."""
        total = sum(self._tests.values())
        beside = max(sum(self._outside) - total, 0.0)
        write = terminalreporter.write_line
        terminalreporter.section("seconds of processor time")
        write(f"{total:8.1f} in tests, {beside:.1f} to collect them")
        for name, key in (("folder", _folder), ("file", _file), ("test", str)):
            sums: dict[str, float] = defaultdict(float)
            for test, seconds in self._tests.items():
                sums[key(test)] += seconds
            _write(terminalreporter, name, sums)


def _write(reporter: TerminalReporter, name: str, sums: Mapping[str, float]) -> None:
    first = sorted(sums.items(), key=lambda item: -item[1])[:SHOWN]
    for key, seconds in first:
        if seconds >= SHORT_S:
            reporter.write_line(f"{seconds:8.1f} {name} {key}")


def _file(test: str) -> str:
    return test.partition("::")[0]


def _folder(test: str) -> str:
    return str(Path(_file(test)).parent)
