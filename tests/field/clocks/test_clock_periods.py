"""A host's wall clock is set while the scheduler of both programs runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.support.host.moved_clock import MovedClock

PROGRAM = """
import os, resource, sys, time
from registry.periodic import PeriodicScheduler

def say(what):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    os.write(1, f"{what} {round(time.monotonic() * 1000)} {int(time.time())} {peak}\\n".encode())  # whole lines

scheduler = PeriodicScheduler(threads=2)
scheduler.every(0.05, say, "short", first_s=0.05, name="short")
scheduler.every(0.15, say, "long", first_s=0.15, name="long")
scheduler.every(86400, say, "never", first_s=86400, name="never")
scheduler.start()
sys.stdin.read()
scheduler.shutdown()
"""
SLACK_MS = 100
"""Two runs of "short" that are timed by the thread that prints, not by the one that plans."""


class Program:
    """What the scheduler's jobs said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._out: IO[str] = process.stdout  # type: ignore[assignment]
        self.peak_mb = 0

    def runs(self, number: int) -> list[tuple[str, int, int]]:
        """The next so many: job, monotonic milliseconds, wall seconds. The suite's timeout ends a wait for ever."""
        runs = []
        for _ in range(number):
            job, steady, wall, peak = self._out.readline().split()
            self.peak_mb = int(peak)
            runs.append((job, int(steady), int(wall)))
        return runs


@pytest.fixture
def clock(tmp_path: Path) -> MovedClock:
    return MovedClock(tmp_path)


@pytest.fixture
def program(clock: MovedClock) -> Iterator[Program]:
    environment = {**os.environ, **clock.environment}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Program(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    "step", [-3600, 3600, 20 * 365 * 86400, -25 * 365 * 86400], ids=["back", "ahead", "20y", "1970s"]
)
def test_periodic_jobs_run_on_when_the_clock_is_set(clock: MovedClock, program: Program, step: int) -> None:
    before = program.runs(10)
    memory = program.peak_mb
    clock.set_ahead(step)
    after = program.runs(5)
    while after[-1][2] - before[0][2] in range(60):  # until the step is seen
        after += program.runs(1)
    after += program.runs(20)
    assert {"short", "long"} == {job for job, _, _ in after}
    short = [at for job, at, _ in before + after if job == "short"]
    assert len(short) <= (short[-1] - short[0] + SLACK_MS) / 50 + 1, "no run is made good, none comes twice"
    assert program.peak_mb < memory + 20
