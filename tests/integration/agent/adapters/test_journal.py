"""The journal on a real disk: what was saved is there after a kill, and a broken file keeps no agent down."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agent.adapters.disk.damage import Damage
from agent.adapters.disk.journal import MAX_MEASURES, SLOT, SqliteJournal
from agent.core.lifecycle import State
from agent.core.slots import SlotRecord
from agent.errors import PermanentError, TransientError
from agent.worker.measure import Measurement
from tests.support.paths import ROOT

Known = tuple[dict[str, SlotRecord], dict[str, "bytes | None"], list["Measurement | None"]]
FOUND = Measurement(run_us=12.5, max_batch=16, lanes=2, fixed=True)


def opened(folder: Path) -> SqliteJournal:
    journal = SqliteJournal(folder)
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
from agent.adapters.disk.journal import SqliteJournal
journal = SqliteJournal(Path(sys.argv[1]))
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
    assert (tmp_path / "journal.unreadable").read_bytes() == damage
    journal.close()


def test_a_record_of_a_newer_agent_is_left_out(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.save(SlotRecord(model="lenet"))
    journal._keep(SLOT, "other", b'{"state": "levitating"}')
    assert set(journal.slots()) == {"lenet"}
    journal.close()


def test_the_journal_of_a_newer_agent_is_not_touched(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "journal.db")
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(PermanentError, match="newer agent"):
        SqliteJournal(tmp_path).open()


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="journal"):
        SqliteJournal(tmp_path / "none").open()


def filled(folder: Path) -> Known:
    journal = opened(folder)
    for number in range(40):
        journal.save(SlotRecord(model=f"model-{number}", state=State.COMMITTED, generation=number))
        journal.put(f"fact-{number}", b"x" * 200 * number)
        journal.keep_measure(f"v{number}", "f", FOUND)
    journal.forget("model-7")
    journal.put("desired", b"d" * 9000)
    known = everything(journal)
    journal.close()
    return known


def everything(journal: SqliteJournal) -> Known:
    facts = {f"fact-{number}": journal.get(f"fact-{number}") for number in range(40)}
    measures = [journal.measured(f"v{number}", "f") for number in range(40)]
    return journal.slots(), facts | {"desired": journal.get("desired")}, measures


def flipped(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def test_a_flipped_bit_anywhere_costs_nothing(tmp_path: Path) -> None:
    known = filled(tmp_path)
    source = tmp_path / "journal.db"
    chance = random.Random(3)
    heads = [page * 4096 * 8 + bit for page in range(source.stat().st_size // 4096) for bit in range(64)]
    everywhere = range(source.stat().st_size * 8)
    found = 0
    for number, bit in enumerate([*range(0, 800, 40), *chance.sample(heads, 15), *chance.sample(everywhere, 30)]):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        shutil.copy(source, folder)
        flipped(folder / "journal.db", bit)
        damage = Damage()
        journal = SqliteJournal(folder, damage)
        journal.open()
        assert everything(journal) == known, f"bit {bit}"
        journal.put("desired", b"another")
        assert journal.get("desired") == b"another"
        journal.close()
        found += bool(damage.counts())
        later = Damage()
        again = SqliteJournal(folder, later)
        again.open()
        assert again.slots() == known[0]
        assert later.counts() == {}, f"bit {bit} was healed once and for all"
        again.close()
    assert found > 20


def test_a_damaged_log_after_a_kill_costs_nothing(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for number in range(30):
        journal.save(SlotRecord(model=f"model-{number % 5}", generation=number))
        journal.put("desired", b"%d" % number * 1000)
    slots, desired = journal.slots(), journal.get("desired")
    chance = random.Random(4)
    for number in range(20):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        for name in ("journal.db", "journal.db-wal"):
            shutil.copy(tmp_path / name, folder)
        size = (folder / "journal.db-wal").stat().st_size
        flipped(folder / "journal.db-wal", chance.randrange(size * 8))
        damaged = opened(folder)
        assert (damaged.slots(), damaged.get("desired")) == (slots, desired)
        damaged.close()
    journal.close()


def test_a_row_that_rots_while_the_agent_runs_is_healed_from_its_copy(tmp_path: Path) -> None:
    damage = Damage()
    journal = SqliteJournal(tmp_path, damage)
    journal.open()
    journal.save(SlotRecord(model="lenet", generation=5))
    for table in ("entries", "copies", "entries"):
        journal._opened().execute(f"UPDATE {table} SET value = X'7B7D' WHERE kind = 'slot'")
        assert journal.slots() == {"lenet": SlotRecord(model="lenet", generation=5)}
    assert damage.counts() == {"journal": 3}
    journal.close()


def test_a_file_of_an_earlier_schema_is_put_aside(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "journal.db")
    database.executescript("CREATE TABLE slots (model TEXT, record TEXT); PRAGMA user_version=1;")
    database.close()
    journal = opened(tmp_path)
    assert (tmp_path / "journal.unreadable").is_file()
    journal.save(SlotRecord(model="lenet"))
    journal.close()


def test_measurements_are_bounded(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for number in range(MAX_MEASURES + 5):
        journal.keep_measure(f"v{number}", "f", FOUND)
    assert journal.measured("v0", "f") is None
    assert journal.measured(f"v{MAX_MEASURES + 4}", "f") == FOUND
    journal.close()


def place(path: Path, what: str) -> None:
    """Something that is no file, in the place of one."""
    path.unlink(missing_ok=True)
    match what:
        case "folder":
            (path / "inside").mkdir(parents=True)
        case "pipe":
            os.mkfifo(path)
        case "dangling link":
            path.symlink_to(path.parent / "gone" / "away")
        case "link to itself":
            path.symlink_to(path)


@pytest.mark.parametrize("what", ["folder", "pipe", "dangling link", "link to itself"])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_what_is_no_file_in_the_place_of_the_journal_is_set_aside(tmp_path: Path, what: str, suffix: str) -> None:
    first = opened(tmp_path)
    first.put("desired", b"x")
    first.close()
    for _ in range(2):  # the second finds what the first set aside
        place(tmp_path / f"journal.db{suffix}", what)
        damage = Damage()
        journal = SqliteJournal(tmp_path, damage)
        journal.open()
        assert damage.counts() == {"journal": 1}
        assert not journal.read_only
        assert journal.get("desired") == (b"x" if suffix else None), "the file itself is whole"
        journal.put("kept", b"y")
        journal.close()
        assert opened(tmp_path).get("kept") == b"y"


def test_a_journal_whose_rights_were_taken_is_read_and_written(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.put("desired", b"x")
    first.close()
    (tmp_path / "journal.db").chmod(0)
    journal = opened(tmp_path)
    journal.put("kept", b"y")
    assert (journal.get("desired"), journal.get("kept")) == (b"x", b"y")
    assert (tmp_path / "journal.db").stat().st_mode & 0o777 == 0o600
