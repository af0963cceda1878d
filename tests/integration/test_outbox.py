"""The outbox on a real disk: order, bounds, what it drops, and what it does with a damaged file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.adapters.outbox import EVENT, RESULT, NewMessage, Outbox, OutboxLimits
from agent.errors import TransientError


def message(kind: int, number: int, size: int = 10) -> NewMessage:
    return NewMessage(kind, b"topic", b"", b"%d" % number + b"." * size)


def numbers(outbox: Outbox) -> list[int]:
    return [int(each.payload.rstrip(b".")) for each in outbox.after(0, 10_000)]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Outbox]]:
    made: list[Outbox] = []

    def open_(**limits: int) -> Outbox:
        made.append(Outbox(tmp_path / "outbox.db", OutboxLimits(**limits)))
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
    outbox = opened(bytes=10_000)
    for number in range(5):
        outbox.add([message(RESULT, number, 3000)])
    assert numbers(outbox) == [2, 3, 4]
    assert outbox.bytes <= 10_000
    outbox.add([message(RESULT, 9, 50_000)])
    assert (numbers(outbox), outbox.rows, outbox.bytes) == ([], 0, 0)
    assert outbox.dropped == 6
    assert opened(bytes=10_000).dropped == 6


def test_a_damaged_file_is_set_aside(tmp_path: Path, opened: Callable[..., Outbox]) -> None:
    (tmp_path / "outbox.db").write_bytes(b"SQLite format 3\0" + b"garbage" * 5000)
    outbox = opened()
    outbox.add([message(RESULT, 1)])
    assert numbers(outbox) == [1]
    assert (tmp_path / "outbox.db.damaged").read_bytes().startswith(b"SQLite format 3\0garbage")


def test_a_write_that_fails_keeps_nothing_of_it_and_says_so(tmp_path: Path, opened: Callable[..., Outbox]) -> None:
    outbox = opened()
    outbox.add([message(RESULT, 1)])
    other = sqlite3.connect(tmp_path / "outbox.db")
    other.execute("CREATE TRIGGER full BEFORE INSERT ON messages BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
    other.commit()
    other.close()
    with pytest.raises(TransientError, match="disk is full") as caught:
        outbox.add([message(RESULT, 2), message(RESULT, 3)])
    assert caught.value.code == "disk_error"
    assert (numbers(outbox), outbox.rows) == ([1], 1)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="cannot open the outbox"):
        Outbox(tmp_path / "missing" / "outbox.db")
