"""What the agent knows across a power cut, every write on disk before the call returns.

It holds the last desired document byte for byte, one record per slot, what was measured of variants, and small facts
(counters, digests). Each is an entry with a kind, a key and a value, in two tables of one `RowFile`, with its number
and checksum: one that is corrupted in one table is whole in the other and written again, and the newest whole one
counts. What could not be kept comes back, too: the desired state from the registry, the files from the cache.

INVARIANT: used by the control thread only.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from agent.adapters.disk.damage import Damage
from agent.adapters.disk.pages import Row, Value
from agent.adapters.disk.row_file import RowFile, row_sum, transaction
from agent.core.slots import SlotRecord
from agent.errors import PermanentError
from agent.worker.measure import Measurement

MAX_MEASURES = 256
SCHEMA_VERSION = 2
TABLES = ("entries", "copies")
META, SLOT, FACT, MEASURE = "meta", "slot", "fact", "measure"
_KINDS = (META, SLOT, FACT, MEASURE)
_COLUMNS = "kind TEXT NOT NULL, key TEXT NOT NULL, number INTEGER NOT NULL, value BLOB NOT NULL, sum BLOB NOT NULL"
_SCHEMA = "".join(f"CREATE TABLE {table} ({_COLUMNS}, UNIQUE (kind, key)); " for table in TABLES)
_INSERT = "INSERT OR REPLACE INTO $ VALUES (?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM $ WHERE kind = ? AND (? IS NULL OR key = ?)"
_SELECT = "SELECT kind, key, number, value, sum FROM $ WHERE kind = ? AND (? IS NULL OR key = ?)"
_ALL = "SELECT rowid, kind, key, number, value, sum FROM $"
_DROP = "DELETE FROM $ WHERE rowid = ?"
_LAST = "SELECT max(number) FROM $"


class JournalEntry(NamedTuple):
    """One thing that is known."""

    kind: str
    key: str
    number: int
    """Rises with every write to the file."""
    value: bytes


class SqliteJournal(RowFile[JournalEntry]):
    """The file `journal.db` below the data directory."""

    def __init__(self, folder: Path, damage: Damage | None = None) -> None:
        aside, refusal = folder / "journal.unreadable", "the journal cannot be read or written"
        super().__init__(folder / "journal.db", aside, "journal", refusal, damage)
        self._number = 0

    def slots(self) -> dict[str, SlotRecord]:
        """All slots. A record that this version cannot read is left out: the desired state brings it again."""
        records = {entry.key: _record(entry.value) for entry in self._entries(SLOT)}
        return {model: record for model, record in records.items() if record is not None}

    def save(self, record: SlotRecord) -> None:
        """On disk when this returns."""
        self._keep(SLOT, record.model, record.canonical())

    def forget(self, model: str) -> None:
        """The slot is empty and not desired."""
        self._remove(SLOT, model)

    def get(self, key: str) -> bytes | None:
        """A small fact."""
        return next((entry.value for entry in self._entries(FACT, key)), None)

    def put(self, key: str, value: bytes) -> None:
        """Keeps a small fact."""
        self._keep(FACT, key, value)

    def next_number(self, key: str) -> int:
        """1, 2, 3, ... across restarts; never the same one twice."""
        number = int(self.get(key) or b"0") + 1
        self.put(key, str(number).encode())
        return number

    def measured(self, variant: str, facts: str) -> Measurement | None:
        """What warming up found of a variant on a host with these facts, when it was measured before."""
        found = next((entry.value for entry in self._entries(MEASURE, f"{variant} {facts}")), None)
        try:
            return None if found is None else Measurement(*json.loads(found))
        except (TypeError, ValueError):
            return None  # of an agent that measured something else

    def keep_measure(self, variant: str, facts: str, found: Measurement) -> None:
        """Remembers a measurement; the table is emptied when it has grown to MAX_MEASURES."""
        if len(self._entries(MEASURE)) >= MAX_MEASURES:
            self._remove(MEASURE)
        self._keep(MEASURE, f"{variant} {facts}", json.dumps(found).encode())

    # --- entries ----------------------------------------------------------------------------------------------------

    def _entries(self, kind: str, key: str | None = None) -> list[JournalEntry]:
        """The newest whole one of each key; one that is whole in one table only is written again in both.

        Raises:
            TransientError: the disk refuses.
        """
        return self._guarded(lambda: self._checked(kind, key))

    def _keep(self, kind: str, key: str, value: bytes) -> None:
        """On disk when this returns. Raises TransientError, and then nothing has changed."""
        self._write(lambda database: self._insert(database, [JournalEntry(kind, key, self._number + 1, value)]))
        self._number += 1

    def _remove(self, kind: str, key: str | None = None) -> None:
        """One, or all of a kind. As `_keep`."""

        def remove(database: sqlite3.Connection) -> None:
            for table in TABLES:
                database.execute(_on(table, _DELETE), (kind, key, key))

        self._write(remove)

    def _write(self, work: Callable[[sqlite3.Connection], None]) -> None:
        self._need_file()

        def write() -> None:
            with transaction(self._opened()):
                work(self._opened())

        self._guarded(write)

    def _checked(self, kind: str, key: str | None) -> list[JournalEntry]:
        found = [_select(self._opened(), table, kind, key) for table in TABLES]
        best = _newest(entry for entries, _ in found for entry in entries)
        bad = sum(wrong for _, wrong in found)
        if bad or any(len(entries) != len(best) for entries, _ in found):
            text = f"the journal: {max(bad, 1)} rows of kind {kind} were damaged; {len(best)} entries are whole"
            self._damage.note("journal", text, max(bad, 1))
            self._heal(best)
        return best

    def _heal(self, entries: list[JournalEntry]) -> None:
        """Where the disk refuses, it is healed when it is read again."""
        database = self._opened()
        if not self.read_only:
            with contextlib.suppress(sqlite3.OperationalError), transaction(database):
                for table in TABLES:
                    for rowid, *row in database.execute(_on(table, _ALL)).fetchall():
                        if _entry(row) is None:
                            database.execute(_on(table, _DROP), (rowid,))
                self._insert(database, entries)

    # --- what the rows are ------------------------------------------------------------------------------------------

    def _set_up(self, database: sqlite3.Connection) -> None:
        """By an entry of our own: the header, which has no checksum, may say anything."""
        # Corrupted text must be readable, to be found wrong by its checksum.
        database.text_factory = lambda data: data.decode("utf-8", "replace")
        version = int(database.execute("PRAGMA user_version").fetchone()[0])
        if _is_ours(database):
            if version != SCHEMA_VERSION:
                database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        elif version > SCHEMA_VERSION:
            raise PermanentError(
                "journal_too_new",
                f"{self._path} was written by a newer agent (schema {version}, this one knows {SCHEMA_VERSION}): "
                "install that version, or drop the local state with `agent reset`",
            )
        elif version or database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise sqlite3.DatabaseError(f"malformed, or of schema {version}, which no release wrote")
        else:
            database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
            self._insert(database, [JournalEntry(META, "schema", 1, b"%d" % SCHEMA_VERSION)])

    def _insert(self, database: sqlite3.Connection, found: Iterable[JournalEntry]) -> None:
        """Into both tables."""
        values = [(*entry, row_sum(*entry)) for entry in found]
        for table in TABLES:
            database.executemany(_on(table, _INSERT), values)

    def _whole(self, found: Iterable[Row]) -> list[JournalEntry]:
        texts = ([_text(value) for value in row[1:3]] + [*row[3:]] for row in found)
        return _newest(entry for row in texts if (entry := _entry(row)) is not None)

    def _is_newer(self, row: JournalEntry) -> bool:
        return row.number > self._number

    def _count(self, database: sqlite3.Connection) -> None:
        last = [database.execute(_on(table, _LAST)).fetchone()[0] or 0 for table in TABLES]
        self._number = max(self._number, *map(int, last))


def _on(table: str, statement: str) -> str:
    """The same for both tables."""
    return statement.replace("$", table)


def _is_ours(database: sqlite3.Connection) -> bool:
    try:
        found = [entry for table in TABLES for entry in _select(database, table, META, "schema")[0]]
    except sqlite3.OperationalError:
        return False
    return any(entry.value == b"%d" % SCHEMA_VERSION for entry in found)


def _select(database: sqlite3.Connection, table: str, kind: str, key: str | None) -> tuple[list[JournalEntry], int]:
    """The whole ones of one table, and how many are not."""
    found = database.execute(_on(table, _SELECT), (kind, key, key)).fetchall()
    entries = [entry for row in found if (entry := _entry(row)) is not None]
    return entries, len(found) - len(entries)


def _newest(entries: Iterable[JournalEntry]) -> list[JournalEntry]:
    """Of each name the one that was written last."""
    ordered = sorted(entries, key=lambda entry: entry.number)
    return list({(entry.kind, entry.key): entry for entry in ordered}.values())


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


def _record(data: bytes) -> SlotRecord | None:
    try:
        return SlotRecord.model_validate_json(data)
    except ValidationError:
        return None
