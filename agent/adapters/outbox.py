"""What must reach the broker and could not yet: events and results, on disk, in order, bounded by rows and bytes.

Events are written before they are sent, results when the connection is away; both are removed at PUBACK.
When the outbox is full the oldest results are dropped, and events only once no result is left: a result can be asked
for again, an event is the history of the device. What is dropped is counted, and the count survives a restart.

SQLite in WAL mode with synchronous=FULL: a committed row survives a power cut. Any thread may call; a lock serialises.
A damaged file is set aside (`.damaged`) and begun anew: an outbox that cannot be read must not keep an agent down.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from agent.errors import TransientError
from registry.contracts.codes import DeploymentCode

EVENT, RESULT = 0, 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind INTEGER NOT NULL,
    topic BLOB NOT NULL,
    properties BLOB NOT NULL,
    payload BLOB NOT NULL,
    size INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_by_kind ON messages (kind, id);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
_ROW_BYTES = 64
"""What a row costs besides its three blobs."""
_log = logging.getLogger(__name__)


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
        return len(self.topic) + len(self.properties) + len(self.payload) + _ROW_BYTES


@dataclass(frozen=True)
class OutboxLimits:
    """How much may wait."""

    rows: int = 100_000
    bytes: int = 256 << 20


class Outbox:
    """The file is made on first use; `close` before another opens it."""

    def __init__(self, path: Path, limits: OutboxLimits | None = None) -> None:
        self._path = path
        self._limits = limits or OutboxLimits()
        self._lock = threading.Lock()
        self._db = self._open()
        self.rows, self.bytes = self._count()
        self.dropped = self._read_dropped()
        """Messages given up for room, since the file was made."""

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "unable to open" in str(error):
                raise TransientError(
                    DeploymentCode.DISK_ERROR, f"cannot open the outbox {self._path}: {error}; is the folder writable?"
                ) from None
            aside = self._path.with_suffix(self._path.suffix + ".damaged")
            _log.error("the outbox %s is damaged (%s); set aside as %s", self._path, error, aside.name)
            self._path.replace(aside)
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=5, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(_SCHEMA)
            db.execute("SELECT count(*) FROM messages").fetchone()
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    def _count(self) -> tuple[int, int]:
        rows, size = self._db.execute("SELECT count(*), coalesce(sum(size), 0) FROM messages").fetchone()
        return int(rows), int(size)

    def _read_dropped(self) -> int:
        row = self._db.execute("SELECT value FROM counters WHERE name = 'dropped'").fetchone()
        return int(row[0]) if row else 0

    def add(self, messages: Sequence[NewMessage]) -> None:
        """Keeps the messages, all or none, in one transaction; on disk when this returns.

        Raises:
            TransientError: the disk is full or failing (`disk_error`); nothing of it was kept.
        """
        if not messages:
            return
        with self._lock, self._transaction():
            self._db.executemany(
                "INSERT INTO messages (kind, topic, properties, payload, size) VALUES (?, ?, ?, ?, ?)",
                [(m.kind, m.topic, m.properties, m.payload, m.size) for m in messages],
            )
            rows, size = self.rows + len(messages), self.bytes + sum(message.size for message in messages)
            self._fit(rows, size)

    def _fit(self, rows: int, size: int) -> None:
        """Drops what is over the limits: results from the oldest on, then events."""
        dropped = 0
        limits = self._limits
        if rows > limits.rows or size > limits.bytes:
            doomed = []
            for id_, one in self._db.execute("SELECT id, size FROM messages ORDER BY kind DESC, id"):
                if rows <= limits.rows and size <= limits.bytes:
                    break
                doomed.append((id_,))
                rows, size = rows - 1, size - one
            self._db.executemany("DELETE FROM messages WHERE id = ?", doomed)
            dropped = len(doomed)
            self._count_dropped(dropped)
        self._commit_then(rows, size, dropped)

    def _count_dropped(self, count: int) -> None:
        self._db.execute(
            "INSERT INTO counters VALUES ('dropped', ?)"
            " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            (count,),
        )

    def _commit_then(self, rows: int, size: int, dropped: int) -> None:
        self._db.execute("COMMIT")
        self.rows, self.bytes = rows, size
        self.dropped += dropped

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
        except sqlite3.Error as error:
            raise TransientError(
                DeploymentCode.DISK_ERROR, f"the outbox {self._path} cannot be written: {error}; is the disk full?"
            ) from error
        finally:
            if self._db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")

    def after(self, id_: int, count: int) -> list[OutboxMessage]:
        """The oldest `count` messages with a greater id, in order."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id, topic, properties, payload FROM messages WHERE id > ? ORDER BY id LIMIT ?", (id_, count)
            ).fetchall()
        return [OutboxMessage(*row) for row in rows]

    def remove(self, ids: Sequence[int]) -> None:
        """These have reached the broker. Unknown ids are passed over.

        Raises:
            TransientError: the disk is failing; they will be sent again, which receivers must bear anyway.
        """
        if not ids:
            return
        with self._lock, self._transaction():
            size = rows = 0
            for id_ in ids:
                row = self._db.execute("SELECT size FROM messages WHERE id = ?", (id_,)).fetchone()
                if row is not None:
                    self._db.execute("DELETE FROM messages WHERE id = ?", (id_,))
                    rows, size = rows + 1, size + int(row[0])
            self._commit_then(self.rows - rows, self.bytes - size, 0)

    def close(self) -> None:
        """Everything added is on disk already."""
        with self._lock:
            self._db.close()
