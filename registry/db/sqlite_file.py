"""How a SQLite file is opened: for writing, or on a disk that takes no writes for reading only.

A file in WAL mode needs its `-shm` beside it, which cannot be made on such a disk. Where nothing of the log is
outstanding the file alone is the database, and is read as `immutable`. That is true only as long as nobody writes, so
such a connection serves one transaction. So does every connection that can only read.

All connections of a process share one `-shm`: as long as one is open that could open it only for reading, none writes.
Hence, once the disk takes writes again, a new connection is made only after every one that can only read is closed.

RULE: a process keeps to the file that it opened first. SQLite goes on writing to a file that was moved or removed, and
makes an empty one for the next connection; what is acknowledged then is gone at the next start.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from typing import Any
from urllib.parse import quote

from sqlalchemy import Engine, event
from sqlalchemy.pool import ConnectionPoolEntry

_ONCE = "modelfleet_once"
REPLACED = "The database's file was moved, removed or replaced while the registry runs"


class Place:
    """Where the file was when it was opened first. Thread-safe."""

    def __init__(self) -> None:
        self._file = ""
        self._identity: tuple[int, int] | None = None

    def lost(self) -> bool:
        """Is it not there any more, or another one? False as long as none was opened."""
        if self._identity is None:
            return False
        try:
            return _identity(self._file) != self._identity
        except FileNotFoundError:
            return True
        except OSError:  # says nothing about which file it is
            return False

    def opened(self, file: str) -> None:
        """The first one counts."""
        if self._identity is None and os.path.exists(file):
            self._file = os.path.abspath(file)
            self._identity = _identity(file)


def _identity(file: str) -> tuple[int, int]:
    status = os.stat(file)
    return status.st_dev, status.st_ino


def open_as_file(engine: Engine, busy_timeout_s: float) -> Place:
    """Have the engine's connections made here. Returns the place of the file, to be looked at before a write."""
    file = _File(busy_timeout_s)
    event.listen(engine, "do_connect", file.connect)
    event.listen(engine, "checkin", file.given_back)
    return file.place


class _Connection(sqlite3.Connection):
    """Closes its cursors, too: SQLite keeps a file open as long as a statement is, in an old traceback, say."""

    only_reads: _OnlyReading | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()
        super().__init__(*arguments, **options)

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        made = super().cursor(*arguments, **options)
        self._cursors.add(made)
        return made

    def close(self) -> None:
        cursors, self._cursors = list(self._cursors), weakref.WeakSet()
        try:
            for cursor in cursors:
                cursor.close()
        finally:
            super().close()
            if self.only_reads is not None:
                self.only_reads.discard(self)


class _OnlyReading:
    """The connections that are open and can only read. Thread-safe."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._changed = threading.Condition()

    def add(self, connection: _Connection) -> None:
        with self._changed:
            self._open.add(connection)
            connection.only_reads = self

    def discard(self, connection: _Connection) -> None:
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()

    def all_closed(self, timeout_s: float) -> bool:
        """Wait for it; False: not within that time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout_s)


class _File:
    """Makes the connections of one engine, one at a time."""

    def __init__(self, busy_timeout_s: float) -> None:
        self.place = Place()
        self._busy_timeout_s = busy_timeout_s
        self._turn = threading.Lock()
        self._only_reading = _OnlyReading()

    def connect(self, _dialect: Any, record: ConnectionPoolEntry, arguments: Any, options: Any) -> sqlite3.Connection:
        file = arguments[0]
        if not self._turn.acquire(timeout=self._busy_timeout_s):
            raise sqlite3.OperationalError("database is locked: another connection is being opened")
        try:
            if not self._only_reading.all_closed(0) and _lets_write(file):
                self._wait_for_readers()
            if self.place.lost():
                raise sqlite3.OperationalError(REPLACED)
            opened, writes = self._open(file, arguments, options)
            self.place.opened(file)
            record.info[_ONCE] = not writes
            if not writes:
                self._only_reading.add(opened)
                return opened
            try:
                self._wait_for_readers()  # the disk may have taken writes only since it was asked
            except sqlite3.OperationalError:
                opened.close()
                raise
            return opened
        finally:
            self._turn.release()

    def _wait_for_readers(self) -> None:
        if not self._only_reading.all_closed(self._busy_timeout_s):
            raise sqlite3.OperationalError("database is locked: a reader from before it took writes is still open")

    def given_back(self, _connection: Any, record: ConnectionPoolEntry) -> None:
        """After its transaction."""
        if record.info.get(_ONCE):
            record.invalidate()

    def _open(self, file: str, arguments: Any, options: Any) -> tuple[_Connection, bool]:
        """And whether it can write."""
        options = {**options, "factory": _Connection}
        try:
            opened = _configured(sqlite3.connect(*arguments, **options), self._busy_timeout_s)
        except sqlite3.OperationalError:
            if file.startswith("file:") or not os.path.exists(file) or _takes_writes(file) or _has_log(file):
                raise
        else:
            return opened, _may_write(opened, self._busy_timeout_s)
        only_read = f"file:{quote(os.path.abspath(file))}?mode=ro&immutable=1"
        return _configured(sqlite3.connect(only_read, uri=True, **options), self._busy_timeout_s), False


def _configured(connection: _Connection, busy_timeout_s: float) -> _Connection:
    connection.isolation_level = None  # SQLAlchemy begins transactions itself
    try:
        for pragma in (
            f"busy_timeout={busy_timeout_s * 1000:.0f}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "schema_version",  # opens the log, too
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except UnicodeDecodeError as error:  # SQLite quotes a corrupted name, and Python takes the message for text
        connection.close()
        raise sqlite3.DatabaseError("database disk image is malformed: a name in its schema is no text") from error
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _may_write(connection: sqlite3.Connection, busy_timeout_s: float) -> bool:
    connection.execute("PRAGMA busy_timeout=0")
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        return "locked" in str(error)  # by a writer, so it takes writes
    finally:
        connection.execute(f"PRAGMA busy_timeout={busy_timeout_s * 1000:.0f}")
    return True


def _lets_write(file: str) -> bool:
    """Its disk takes writes and no right is missing. INVARIANT: never opens it: closing would end SQLite's locks."""
    there = (path for path in (file, f"{file}-wal", f"{file}-shm") if os.path.exists(path))
    return all(os.access(path, os.W_OK) for path in there) and _takes_writes(file)


def _takes_writes(file: str) -> bool:
    probe = os.path.join(os.path.dirname(os.path.abspath(file)), ".writable")
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.unlink(probe)
    except OSError:
        return False
    return True


def _has_log(file: str) -> bool:
    """Is there something in the log that the file alone does not have?"""
    try:
        return os.stat(f"{file}-wal").st_size > 0
    except FileNotFoundError:
        return False
