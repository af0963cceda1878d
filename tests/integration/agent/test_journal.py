"""The journal on a real disk: what was saved is there after a kill, and a broken file keeps no agent down."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agent.adapters.journal import MAX_MEASURES, Journal
from agent.core.lifecycle import State
from agent.core.slots import SlotRecord
from agent.errors import PermanentError, TransientError
from agent.worker.measure import Measurement

ROOT = Path(__file__).parents[3]
FOUND = Measurement(run_us=12.5, max_batch=16, lanes=2, fixed=True)


def opened(folder: Path) -> Journal:
    journal = Journal(folder)
    journal.open()
    return journal


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.save(SlotRecord(model="lenet", state=State.DOWNLOADING, attempts=3))
    journal.put("desired", b'{"x":1}')
    journal.keep_measure("v", "f", FOUND)
    assert journal.next_number("seq") == 1
    journal.close()
    again = opened(tmp_path)
    assert again.slots() == {"lenet": SlotRecord(model="lenet", state=State.DOWNLOADING, attempts=3)}
    assert again.get("desired") == b'{"x":1}'
    assert again.measured("v", "f") == FOUND
    assert again.next_number("seq") == 2
    again.forget("lenet")
    assert again.slots() == {}
    again.close()


COUNT_PROGRAM = """
import sys
from pathlib import Path
from agent.adapters.journal import Journal
journal = Journal(Path(sys.argv[1]))
journal.open()
while True:
    print(journal.next_number("seq"), flush=True)
"""


def test_no_acknowledged_write_is_lost_by_a_kill(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", COUNT_PROGRAM, str(tmp_path)]
    for _ in range(3):
        with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            seen = [child.stdout.readline() for _ in range(50)]
            os.kill(child.pid, signal.SIGKILL)
            seen += child.stdout.readlines()
        last = max(int(line) for line in seen if line.endswith("\n"))
        journal = opened(tmp_path)
        assert int(journal.get("seq") or b"0") >= last
        journal.close()


def test_it_is_durable_by_its_settings(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    assert journal._opened().execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._opened().execute("PRAGMA synchronous").fetchone() == (2,)
    assert (tmp_path / "journal.db").stat().st_mode & 0o777 == 0o600
    journal.close()


@pytest.mark.parametrize("damage", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_cannot_be_read_is_put_aside(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "journal.db").write_bytes(damage)
    journal = opened(tmp_path)
    assert journal.slots() == {}
    assert journal.put_aside is not None
    assert journal.put_aside.read_bytes() == damage
    journal.close()


def test_a_record_of_a_newer_agent_is_left_out(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.save(SlotRecord(model="lenet"))
    journal._run("INSERT INTO slots VALUES ('other', '{\"state\": \"levitating\"}')")
    assert set(journal.slots()) == {"lenet"}
    journal.close()


def test_the_journal_of_a_newer_agent_is_not_touched(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "journal.db")
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(PermanentError, match="newer agent"):
        Journal(tmp_path).open()


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="journal"):
        Journal(tmp_path / "none").open()


def test_measurements_are_bounded(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for number in range(MAX_MEASURES + 5):
        journal.keep_measure(f"v{number}", "f", FOUND)
    assert journal.measured("v0", "f") is None
    assert journal.measured(f"v{MAX_MEASURES + 4}", "f") == FOUND
    journal.close()
