"""The outbox on a real disk: order, bounds, what it drops, and what it does with a damaged file."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.adapters.disk.damage import Damage
from agent.adapters.disk.outbox import EVENT, RESULT, NewMessage, Outbox
from agent.errors import TransientError


def message(kind: int, number: int, size: int = 10) -> NewMessage:
    return NewMessage(kind, b"topic", b"", b"%d" % number + b"." * size)


def numbers(outbox: Outbox) -> list[int]:
    return [int(each.payload.rstrip(b".")) for each in outbox.after(0, 10_000)]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Outbox]]:
    made: list[Outbox] = []

    def open_(**limits: int) -> Outbox:
        made.append(Outbox(tmp_path / "outbox.db", **limits))
        return made[-1]

    yield open_
    for outbox in made:
        outbox.close()


def test_messages_come_out_in_order_and_are_there_after_a_restart(opened: Callable[..., Outbox]) -> None:
    first = opened()
    first.add([message(RESULT, 1), message(EVENT, 2)])
    first.add([message(RESULT, 3)])
    again = opened()
    assert numbers(again) == [1, 2, 3]
    assert (again.rows, again.bytes) == (first.rows, first.bytes)
    one, two, three = again.after(0, 9)
    again.remove([two.id, three.id, 999])
    assert numbers(again) == [1]
    assert (again.rows, again.bytes) == (1, message(RESULT, 1).size)
    assert [each.id for each in again.after(one.id, 9)] == []


def test_the_oldest_results_go_first_and_events_last(opened: Callable[..., Outbox]) -> None:
    outbox = opened(rows=4)
    outbox.add([message(EVENT, 0), message(RESULT, 1), message(EVENT, 2), message(RESULT, 3)])
    outbox.add([message(RESULT, 4)])
    assert numbers(outbox) == [0, 2, 3, 4]
    outbox.add([message(EVENT, 5), message(EVENT, 6), message(EVENT, 7)])
    assert numbers(outbox) == [2, 5, 6, 7]
    assert outbox.dropped == 4


def test_bytes_are_a_bound_too_and_the_count_of_drops_survives(opened: Callable[..., Outbox]) -> None:
    outbox = opened(size=10_000)
    for number in range(5):
        outbox.add([message(RESULT, number, 3000)])
    assert numbers(outbox) == [2, 3, 4]
    assert outbox.bytes <= 10_000
    outbox.add([message(RESULT, 9, 50_000)])
    assert (numbers(outbox), outbox.rows, outbox.bytes) == ([], 0, 0)
    assert outbox.dropped == 6
    assert opened(size=10_000).dropped == 6


def test_a_damaged_file_is_set_aside(tmp_path: Path, opened: Callable[..., Outbox]) -> None:
    (tmp_path / "outbox.db").write_bytes(b"SQLite format 3\0" + b"garbage" * 5000)
    outbox = opened()
    outbox.add([message(RESULT, 1)])
    assert numbers(outbox) == [1]
    assert (tmp_path / "outbox.db.damaged").read_bytes().startswith(b"SQLite format 3\0garbage")


def test_a_write_that_fails_keeps_nothing_of_it_and_says_so(tmp_path: Path, opened: Callable[..., Outbox]) -> None:
    outbox = opened()
    outbox.add([message(RESULT, 1)])
    pages = outbox._opened().execute("PRAGMA page_count").fetchone()[0]
    outbox._opened().execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(TransientError, match="disk is full") as caught:
        outbox.add([message(RESULT, 2), message(RESULT, 3, 100_000)])
    assert caught.value.code == "insufficient_disk"
    assert (numbers(outbox), outbox.rows) == ([1], 1)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="missing is not there"):
        Outbox(tmp_path / "missing" / "outbox.db")


def messages() -> list[NewMessage]:
    """60 of all sizes: some fill a page, some several, and the pages have an inner page above them."""
    return [message(EVENT if number % 3 else RESULT, number, 17 * number**2 % 9000) for number in range(60)]


def flipped(file: Path, bit: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(bit // 8)
        (byte,) = stream.read(1)
        stream.seek(bit // 8)
        stream.write(bytes([byte ^ 1 << bit % 8]))


def test_a_flipped_bit_anywhere_costs_at_most_the_message_that_it_is_in(tmp_path: Path) -> None:
    source = tmp_path / "outbox.db"
    outbox = Outbox(source)
    outbox.add(messages())
    outbox.close()
    wanted = {each.payload for each in messages()}
    chance = random.Random(1)
    pages = source.stat().st_size // 4096
    bits = [page * 4096 * 8 + bit for page in range(pages) for bit in range(64)]
    bits = [*chance.sample(bits, 15), *range(0, 800, 40), *chance.sample(range(source.stat().st_size * 8), 40)]
    lost = 0
    for number, bit in enumerate(bits):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        shutil.copy(source, folder)
        flipped(folder / "outbox.db", bit)
        damage = Damage()
        damaged = Outbox(folder / "outbox.db", damage=damage)
        got = [each.payload for each in damaged.after(0, 1000)]
        assert set(got) <= wanted, f"bit {bit}: something wrong comes out"
        assert len(got) == len(set(got)), f"bit {bit}"
        assert len(got) >= len(wanted) - 1, f"bit {bit}: {len(wanted) - len(got)} are lost"
        assert damage.counts() or len(got) == len(wanted), f"bit {bit}: a message is lost in silence"
        assert damaged.rows == len(got)
        damaged.add([message(EVENT, 1000)])
        assert numbers(damaged)[-1] == 1000
        damaged.close()
        lost += len(wanted) - len(got)
    assert lost > 3, "the flips hit messages"


def test_a_damaged_log_after_a_kill_costs_at_most_the_message_that_it_is_in(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    for each in messages():
        outbox.add([each])
    log = tmp_path / "outbox.db-wal"
    chance = random.Random(2)
    for number in range(20):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        for name in ("outbox.db", log.name):
            shutil.copy(tmp_path / name, folder)
        flipped(folder / log.name, chance.randrange(log.stat().st_size * 8))
        damaged = Outbox(folder / "outbox.db", damage=Damage())
        got = {each.payload for each in damaged.after(0, 1000)}
        assert got <= {each.payload for each in messages()}
        assert len(got) >= 59
        damaged.close()
    outbox.close()


def test_a_row_that_rots_while_the_agent_runs_is_left_out_counted_and_told(tmp_path: Path) -> None:
    damage = Damage()
    outbox = Outbox(tmp_path / "outbox.db", damage=damage)
    outbox.add([message(RESULT, number) for number in range(5)])
    outbox._opened().execute("UPDATE messages SET payload = X'00' WHERE id = 3")
    assert numbers(outbox) == [0, 1, 3, 4]
    assert (outbox.rows, damage.counts()) == (4, {"outbox": 1})
    outbox.close()


def test_a_folder_or_a_pipe_in_the_place_of_the_outbox_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "outbox.db" / "inside").mkdir(parents=True)
    os.mkfifo(tmp_path / "outbox.db-wal")
    damage = Damage()
    outbox = Outbox(tmp_path / "outbox.db", damage=damage)
    outbox.add([message(EVENT, 1)])
    outbox.close()
    assert damage.counts() == {"outbox": 1}
    assert (tmp_path / "outbox.db.damaged" / "inside").is_dir()
    again = Outbox(tmp_path / "outbox.db", damage=damage)
    assert numbers(again) == [1]
    assert damage.counts() == {"outbox": 1}
    again.close()
