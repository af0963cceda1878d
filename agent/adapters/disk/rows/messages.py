"""Rows of the outbox: a message each, with its id and a checksum over all of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from agent.adapters.disk.rows.faults import check_whole, connect_checked, row_sum
from agent.adapters.disk.rows.pages import Row

EVENT, RESULT = 0, 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    topic BLOB NOT NULL,
    properties BLOB NOT NULL,
    payload BLOB NOT NULL,
    sum BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_by_kind ON messages (kind, id);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL, sum BLOB NOT NULL);
"""
ROW_BYTES = 64
"""What a row costs besides its three blobs; 64 below."""
SELECT_AFTER = """
SELECT id, kind, topic, properties, payload, sum FROM messages WHERE id > ? ORDER BY id LIMIT ?
"""
SELECT_ORDER = """
SELECT id, kind, length(topic) + length(properties) + length(payload) + 64 FROM messages ORDER BY kind DESC, id
"""
"""Which goes first when there is no room: id, kind, size."""
SELECT_SIZE = "SELECT length(topic) + length(properties) + length(payload) + 64 FROM messages WHERE id = ?"
SELECT_TOTAL = """
SELECT count(*), coalesce(sum(length(topic) + length(properties) + length(payload) + 64), 0), coalesce(max(id), 0)
FROM messages
"""


def connect(path: Path) -> sqlite3.Connection:
    """Opens or makes the file. Raises sqlite3.Error; `faults.is_damage` says whether it is damaged."""
    db = connect_checked(path)
    try:
        db.executescript(SCHEMA)
        db.execute(SELECT_AFTER, (0, 1)).fetchone()
        check_whole(db)
    except BaseException:
        db.close()
        raise
    return db


def insert(db: sqlite3.Connection, messages: Iterable[Sequence[Any]]) -> None:
    """Id, kind, topic, properties, payload, sum of each."""
    db.executemany("INSERT OR REPLACE INTO messages VALUES (?, ?, ?, ?, ?, ?)", messages)


def set_dropped(db: sqlite3.Connection, value: int) -> None:
    """How many messages were given up for room."""
    db.execute("INSERT OR REPLACE INTO counters VALUES ('dropped', ?, ?)", (value, row_sum("dropped", value)))


def is_whole(row: Sequence[Any]) -> bool:
    """Is it what was written?"""
    return (
        len(row) == 6
        and isinstance(row[0], int)
        and row[1] in (EVENT, RESULT)
        and all(isinstance(part, bytes) for part in row[2:])
        and row[5] == row_sum(*row[:5])
    )


def whole(found: Iterable[Row]) -> dict[int, Row]:
    """The messages among what was read out of pages, by id. In a page the id is not among the values."""
    messages = ([row[0], *row[2:]] for row in found if len(row) == 7)
    return {row[0]: row for row in messages if isinstance(row[0], int) and is_whole(row)}
