"""What must reach the broker and could not yet: events and results, on disk, in order, bounded by rows and bytes.

Events are written before they are sent, results when the connection is away; both are removed at PUBACK.
When the outbox is full the oldest results are dropped, and events only once no result is left: a result can be asked
for again, an event is the history of the device. What is dropped is counted, and the count survives a restart.

SQLite in WAL mode with synchronous=FULL: a committed row survives a power cut. Any thread may call; a lock serialises.
Every row has a checksum: a corrupted one is never sent: it is removed, counted and reported. A file that SQLite refuses
is set aside (`.damaged`), and what is whole in it goes into a new one; messages that had been sent already may then be
sent again. Where the disk takes no writes at the start, what is there is sent from memory, and nothing is taken in."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agent.adapters.disk.damage import Damage
from agent.adapters.disk.pages import Row
from agent.adapters.disk.row_file import RowFile, row_sum, transaction

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


class OutboxMessage(NamedTuple):
    """A message that waits."""

    id: int
    topic: bytes
    """UTF-8, without a length."""
    properties: bytes
    """Raw MQTT 5 properties."""
    payload: bytes


class NewMessage(NamedTuple):
    """A message to keep."""

    kind: int
    """EVENT or RESULT."""
    topic: bytes
    properties: bytes
    payload: bytes

    @property
    def size(self) -> int:
        """Bytes as the limit counts them."""
        return len(self.topic) + len(self.properties) + len(self.payload) + ROW_BYTES


class Outbox(RowFile[Sequence[Any]]):
    """The file is made on first use; `close` before another opens it. Its rows: id, kind, topic, properties, payload,
    sum."""

    retry_s = 5.0

    def __init__(self, path: Path, *, rows: int = 100_000, size: int = 256 << 20, damage: Damage | None = None) -> None:
        """`rows` and their `size` in bytes may wait. Raises TransientError when its folder is not there."""
        aside = path.with_suffix(path.suffix + ".damaged")
        super().__init__(path, aside, "outbox", f"the outbox {path} cannot be read or written", damage)
        self._most_rows, self._most_bytes = rows, size
        self._lock = threading.Lock()
        self._last_id = 0
        self._sent_meanwhile: list[int] = []
        """While the file could not be written."""
        self.rows = self.bytes = 0
        self.dropped = 0
        """Messages given up for room, since the file was made."""
        self.open()
        if self.read_only:
            self._damage.note("outbox", f"nothing is kept for later: {self.read_only}", 0)

    def add(self, messages: Sequence[NewMessage]) -> None:
        """Keeps the messages, all or none, in one transaction; on disk when this returns.

        Raises:
            TransientError: the disk is full, failing or read-only; nothing of it was kept.
        """
        if not messages:
            return
        with self._lock:
            self._need_file()
            sent, self._sent_meanwhile = self._sent_meanwhile, []
            if sent:
                self._guarded(lambda: self._remove(sent))
            self._guarded(lambda: self._add(messages))

    def after(self, id_: int, count: int) -> list[OutboxMessage]:
        """The oldest `count` messages with a greater id, in order; fewer when there are no more.

        Raises:
            TransientError: the disk is failing.
        """
        with self._lock:
            return self._guarded(lambda: self._after(id_, count))

    def remove(self, ids: Sequence[int]) -> None:
        """These have reached the broker. Unknown ids are passed over.

        Raises:
            TransientError: the disk is failing; they will be sent again, which receivers must bear anyway.
        """
        if ids:
            with self._lock:
                if self.read_only:
                    self._sent_meanwhile += ids
                self._guarded(lambda: self._remove(ids))

    def close(self) -> None:
        """Everything added is on disk already."""
        with self._lock:
            super().close()

    # --- with the lock held -------------------------------------------------------------------------------------------

    def _add(self, messages: Sequence[NewMessage]) -> None:
        database = self._opened()
        with transaction(database):
            new = [(self._last_id + at, m.kind, m.topic, m.properties, m.payload) for at, m in enumerate(messages, 1)]
            self._insert(database, [(*row, row_sum(*row)) for row in new])
            total, size = self.rows + len(messages), self.bytes + sum(message.size for message in messages)
            doomed = self._doomed(total, size)
            for id_, kind, _ in doomed:
                if database.execute("DELETE FROM messages WHERE id = ? AND kind = ?", (id_, kind)).rowcount != 1:
                    raise sqlite3.DatabaseError("malformed: the index names a message that is not there")
            if doomed:
                _set_dropped(database, self.dropped + len(doomed))
        self._last_id += len(messages)
        self.rows, self.bytes = total - len(doomed), size - sum(one for _, _, one in doomed)
        self.dropped += len(doomed)

    def _doomed(self, total: int, size: int) -> list[tuple[int, int, int]]:
        """What is over the limits: results from the oldest on, then events. Id, kind, size."""
        doomed: list[tuple[int, int, int]] = []
        if total > self._most_rows or size > self._most_bytes:
            for row in self._opened().execute(SELECT_ORDER):
                if total <= self._most_rows and size <= self._most_bytes:
                    break
                doomed.append(row)
                total, size = total - 1, size - row[2]
        return doomed

    def _after(self, id_: int, count: int) -> list[OutboxMessage]:
        while True:
            found = self._opened().execute(SELECT_AFTER, (id_, count)).fetchall()
            bad = [row[0] for row in found if not _is_whole(row)]
            if bad:
                self._damage.note("outbox", f"{len(bad)} messages were damaged; they are not sent", len(bad))
                with contextlib.suppress(sqlite3.OperationalError):  # else they are found again
                    self._remove(bad)
            good = [OutboxMessage(row[0], *row[2:5]) for row in found if _is_whole(row)]
            if good or len(found) < count:
                if not found and id_ == 0 and self.rows:
                    raise sqlite3.DatabaseError(f"malformed: {self.rows} messages are not where they should be")
                return good
            id_ = found[-1][0]

    def _remove(self, ids: Sequence[int]) -> None:
        database, size, total = self._opened(), 0, 0
        with transaction(database):
            for id_ in ids:
                row = database.execute(SELECT_SIZE, (id_,)).fetchone()
                if row is not None:
                    database.execute("DELETE FROM messages WHERE id = ?", (id_,))
                    total, size = total + 1, size + int(row[0])
        self.rows, self.bytes = self.rows - total, self.bytes - size

    # --- what the rows are ------------------------------------------------------------------------------------------

    def _set_up(self, database: sqlite3.Connection) -> None:
        database.executescript(SCHEMA)
        database.execute(SELECT_AFTER, (0, 1)).fetchone()

    def _insert(self, database: sqlite3.Connection, found: Iterable[Sequence[Any]]) -> None:
        database.executemany("INSERT OR REPLACE INTO messages VALUES (?, ?, ?, ?, ?, ?)", found)

    def _whole(self, found: Iterable[Row]) -> list[Row]:
        """In the order of their ids. In a page the id is not among the values."""
        messages = ([row[0], *row[2:]] for row in found if len(row) == 7)
        whole = {row[0]: row for row in messages if isinstance(row[0], int) and _is_whole(row)}
        return [whole[id_] for id_ in sorted(whole)]

    def _is_newer(self, row: Sequence[Any]) -> bool:
        return bool(row[0] > self._last_id)

    def _count(self, database: sqlite3.Connection) -> None:
        total, size, last = database.execute(SELECT_TOTAL).fetchone()
        self.rows, self.bytes, self._last_id = int(total), int(size), max(self._last_id, int(last))
        row = database.execute("SELECT value, sum FROM counters WHERE name = 'dropped'").fetchone()
        if row is not None and row[1] == row_sum("dropped", row[0]):
            self.dropped = max(self.dropped, int(row[0]))

    def _carry_over(self, database: sqlite3.Connection) -> None:
        _set_dropped(database, self.dropped)


def _set_dropped(database: sqlite3.Connection, value: int) -> None:
    """How many messages were given up for room."""
    database.execute("INSERT OR REPLACE INTO counters VALUES ('dropped', ?, ?)", (value, row_sum("dropped", value)))


def _is_whole(row: Sequence[Any]) -> bool:
    """Is it what was written?"""
    return (
        len(row) == 6
        and isinstance(row[0], int)
        and row[1] in (EVENT, RESULT)
        and all(isinstance(part, bytes) for part in row[2:])
        and row[5] == row_sum(*row[:5])
    )
