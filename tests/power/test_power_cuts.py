"""The power is cut at any moment, on a real file system: what was said to be done is there, nothing is there half.

60 cuts a side; `--power-cuts N` for more. The control, in which nothing is synced, must lose something: otherwise this
rig would prove nothing.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.power.disk import Disk, NoDiskError

pytestmark = pytest.mark.timeout(3600)
SIDES = ("agent", "registry")
CONTROL_CUTS = 12
FOLDER_FOR = 12
"""Cuts before a fresh folder: state grows across cuts, as on a device."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = None
    try:
        made = Disk(tmp_path)
        yield made
    except NoDiskError as error:
        pytest.skip(str(error))
    finally:
        if made is not None:
            made.close()


class Side:
    """The program that writes and checks; see `tests.power.side`."""

    def __init__(self, name: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.power.side", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._buffer = b""

    def tell(self, line: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(line.encode() + b"\n")

    def hear(self, seconds: float = 60.0) -> list[Any]:
        """The next line; empty when there is none in time."""
        assert self._child.stdout is not None
        while b"\n" not in self._buffer:
            if not select.select([self._child.stdout], [], [], seconds)[0]:
                return []
            more = os.read(self._child.stdout.fileno(), 1 << 16)
            assert more, "the program has ended"
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        return list(json.loads(line))

    def until(self, *ends: str) -> list[list[Any]]:
        """All lines until one of these, which is the last."""
        lines = []
        while True:
            line = self.hear()
            assert line, "nothing more is said"
            lines.append(line)
            if line[0] in ends:
                return lines

    def close(self) -> None:
        self._child.kill()
        self._child.communicate()


@pytest.fixture
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    made = Side(request.param)
    yield made
    made.close()


class Known:
    """What was said to be done, by what it is, and what that means for what must be there now."""

    def __init__(self) -> None:
        self.at_least: dict[tuple[Any, ...], int] = {}
        self.there: set[tuple[Any, ...]] = set()
        self.perhaps: set[tuple[Any, ...]] = set()

    def hear(self, said: list[Any]) -> None:
        kind, *rest = said
        if kind in ("number", "status"):
            self.at_least[kind,] = max(rest[0], self.at_least.get((kind,), 0))
        elif kind in ("slot", "part"):
            self.at_least[kind, rest[0]] = max(rest[1], self.at_least.get((kind, rest[0]), 0))
        elif kind == "removing":
            self.perhaps.add(("message", rest[0]))
            self.there.discard(("message", rest[0]))
        elif kind in ("message", "artifact", "blob", "version"):
            self.there.add((kind, rest[0]))
        if kind == "blob":
            self.at_least.pop(("part", rest[0]), None)

    def lost(self, found: list[list[Any]]) -> list[str]:
        """What is not there, or less than it was, or wrong."""
        values = {tuple(line[:-1]): line[-1] for line in found if line[0] in ("number", "status", "slot", "part")}
        there = {tuple(line) for line in found}
        wrong = [f"wrong: {line[1:]}" for line in found if line[0] in ("wrong", "error")]
        # A part that was finished just before the cut is a blob.
        whole = {("part", line[1]) for line in found if line[0] == "blob"}
        kept = {key: least for key, least in self.at_least.items() if key not in whole}
        less = [f"{k}: {values.get(k)}, and {least} was done" for k, least in kept.items() if values.get(k, -1) < least]
        return wrong + less + [f"{thing} is gone" for thing in self.there - there]


def one_cut(disk: Disk, side: Side, folder: Path, known: Known, chance: random.Random, *, sync: bool) -> list[str]:
    """Writes, cuts at a random moment, comes back, checks. What was lost."""
    side.tell(f"write {folder} {chance.randrange(1 << 30)} {int(sync)}")
    pid = side.until("pid")[-1][1]
    heard = []
    for _ in range(chance.randrange(1, 40)):
        heard.append(side.hear())
        assert heard[-1][:1] not in ([], ["error"]), f"the writer stopped by itself: {heard[-1:]}"
    time.sleep(chance.random() * 0.01)
    while more := side.hear(0.0):
        heard.append(more)
    disk.cut()
    os.kill(pid, signal.SIGKILL)
    side.tell("reap")
    late = side.until("gone")  # said after the cut, which a writer without power could not: it may be there or not
    for said in heard + [said for said in late if said[0] == "removing"]:
        known.hear(said)
    disk.come_back()
    side.tell(f"check {folder}")
    side.until("pid")
    found = side.until("end", "error")
    side.tell("reap")
    side.until("gone")
    return known.lost(found)


def cuts(disk: Disk, side: Side, count: int, *, sync: bool) -> tuple[list[str], int]:
    """What was lost in so many cuts, until something was; and how much was said to be done."""
    chance = random.Random(count if sync else -count)
    done = 0
    for number in range(count):
        if number % FOLDER_FOR == 0:
            for old in disk.folder.iterdir():
                if old.name != "lost+found":
                    shutil.rmtree(old)
            folder = disk.folder / f"{number}"
            folder.mkdir()
            os.sync()
            known = Known()
        before = len(known.there) + sum(known.at_least.values())
        lost = one_cut(disk, side, folder, known, chance, sync=sync)
        done += len(known.there) + sum(known.at_least.values()) - before
        if lost:
            return [f"cut {number}: {text}" for text in lost], done
    return [], done


@pytest.mark.parametrize("side", SIDES, indirect=True)
def test_no_cut_of_power_loses_what_was_said_to_be_done(disk: Disk, side: Side, request: pytest.FixtureRequest) -> None:
    count = int(request.config.getoption("--power-cuts"))
    lost, done = cuts(disk, side, count, sync=True)
    assert lost == []
    assert done > count, "much was done before the cuts"


@pytest.mark.parametrize("side", SIDES, indirect=True)
def test_the_same_cuts_lose_something_when_nothing_is_synced(disk: Disk, side: Side) -> None:
    lost, _ = cuts(disk, side, CONTROL_CUTS, sync=False)
    assert lost, "this rig finds nothing: it proves nothing"
