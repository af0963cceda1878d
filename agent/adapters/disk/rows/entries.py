"""Entries with a kind, a key and a value in two tables of one SQLite file, each row with its number and checksum.

A row that is corrupted in one table is whole in the other; the newest whole one counts.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from agent.adapters.disk.rows.faults import row_sum
from agent.adapters.disk.rows.pages import Value

SCHEMA_VERSION = 2
TABLES = ("entries", "copies")
META, SLOT, FACT, MEASURE = "meta", "slot", "fact", "measure"
_KINDS = (META, SLOT, FACT, MEASURE)
_COLUMNS = "kind TEXT NOT NULL, key TEXT NOT NULL, number INTEGER NOT NULL, value BLOB NOT NULL, sum BLOB NOT NULL"
_INSERT = "INSERT OR REPLACE INTO $ VALUES (?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM $ WHERE kind = ? AND (? IS NULL OR key = ?)"
_SELECT = "SELECT kind, key, number, value, sum FROM $ WHERE kind = ? AND (? IS NULL OR key = ?)"
_ALL = "SELECT rowid, kind, key, number, value, sum FROM $"
_DROP = "DELETE FROM $ WHERE rowid = ?"
_LAST = "SELECT max(number) FROM $"
_SCHEMA = "".join(f"CREATE TABLE {table} ({_COLUMNS}, UNIQUE (kind, key)); " for table in TABLES)


class JournalEntry(NamedTuple):
    """One thing that is known."""

    kind: str
    key: str
    number: int
    """Rises with every write to the file."""
    value: bytes

    @property
    def name(self) -> tuple[str, str]:
        """There is one of each."""
        return self.kind, self.key


Newest = dict[tuple[str, str], JournalEntry]


def prepare(database: sqlite3.Connection) -> None:
    """Before anything is read: corrupted text must be readable, to be found wrong by its checksum."""
    database.text_factory = lambda data: data.decode("utf-8", "replace")


def make(database: sqlite3.Connection) -> None:
    """The tables of an empty file, and the entry that says whose it is."""
    database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
    insert(database, [JournalEntry(META, "schema", 1, b"%d" % SCHEMA_VERSION)])


def is_ours(database: sqlite3.Connection) -> bool:
    """By an entry of our own: the header, which has no checksum, may say anything."""
    try:
        found = [entry for table in TABLES for entry in select(database, table, META, "schema")[0]]
    except sqlite3.OperationalError:
        return False
    return any(entry.value == b"%d" % SCHEMA_VERSION for entry in found)


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")
        raise


def insert(database: sqlite3.Connection, entries: Iterable[JournalEntry]) -> None:
    """Into both tables."""
    values = [(*entry, row_sum(*entry)) for entry in entries]
    for table in TABLES:
        database.executemany(_on(table, _INSERT), values)


def delete(database: sqlite3.Connection, kind: str, key: str | None) -> None:
    """From both; None: all of the kind."""
    for table in TABLES:
        database.execute(_on(table, _DELETE), (kind, key, key))


def select(database: sqlite3.Connection, table: str, kind: str, key: str | None) -> tuple[list[JournalEntry], int]:
    """The whole ones of one table, and how many are not."""
    found = database.execute(_on(table, _SELECT), (kind, key, key)).fetchall()
    entries = [entry for row in found if (entry := _entry(row)) is not None]
    return entries, len(found) - len(entries)


def drop_damaged(database: sqlite3.Connection) -> None:
    """Removes every row that is not whole."""
    for table in TABLES:
        for row in database.execute(_on(table, _ALL)).fetchall():
            if _entry(row[1:]) is None:
                database.execute(_on(table, _DROP), (row[0],))


def last_number(database: sqlite3.Connection) -> int:
    """The highest that any row has; 0 when there is none."""
    return max(int(database.execute(_on(table, _LAST)).fetchone()[0] or 0) for table in TABLES)


def newest(entries: Iterable[JournalEntry]) -> Newest:
    """Of each name the one that was written last."""
    best: Newest = {}
    for entry in entries:
        if entry.name not in best or entry.number > best[entry.name].number:
            best[entry.name] = entry
    return best


def whole(found: Iterable[Sequence[Value]]) -> Newest:
    """The newest whole entries among what was read out of pages."""
    texts = ([_text(value) for value in row[1:3]] + [*row[3:]] for row in found)
    return newest(entry for row in texts if (entry := _entry(row)) is not None)


def _text(value: Value) -> Value | str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _entry(row: Sequence[Any]) -> JournalEntry | None:
    """None when it is not what was written."""
    if len(row) != 5:
        return None
    kind, key, number, value, total = row
    if not (isinstance(kind, str) and isinstance(key, str) and isinstance(number, int) and isinstance(value, bytes)):
        return None
    entry = JournalEntry(kind, key, number, value)
    return entry if kind in _KINDS and total == row_sum(*entry) else None


def _on(table: str, statement: str) -> str:
    """The same for both tables."""
    return statement.replace("$", table)
