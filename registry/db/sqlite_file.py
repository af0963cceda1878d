"""How a SQLite file is opened: for writing, or on a disk that takes no writes for reading only.

A file in WAL mode needs its `-shm` beside it, which cannot be made on such a disk. Where nothing of the log is
outstanding the file alone is the database, and is read as `immutable`. That is true only as long as nobody writes, so
such a connection serves one transaction: the next one looks anew whether the disk takes writes again. So does every
connection that can only read: what one of them knows of the file, all of a process share while any of them is open.

RULE: a process keeps to the file that it opened first. SQLite goes on writing to a file that was moved or removed, and
makes an empty one for the next connection; what is acknowledged then is gone at the next start.
"""

from __future__ import annotations

import os
import sqlite3
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
    place = Place()

    def connect(_dialect: Any, record: ConnectionPoolEntry, arguments: Any, options: Any) -> sqlite3.Connection:
        file = arguments[0]
        if place.lost():
            raise sqlite3.OperationalError(REPLACED)
        try:
            opened = _configured(sqlite3.connect(*arguments, **options), busy_timeout_s)
        except sqlite3.OperationalError:
            if file.startswith("file:") or not os.path.exists(file) or _takes_writes(file) or _has_log(file):
                raise
        else:
            record.info[_ONCE] = not _may_write(opened, busy_timeout_s)
            place.opened(file)
            return opened
        record.info[_ONCE] = True
        place.opened(file)
        only_read = f"file:{quote(os.path.abspath(file))}?mode=ro&immutable=1"
        return _configured(sqlite3.connect(only_read, uri=True, **options), busy_timeout_s)

    def given_back(_connection: Any, record: ConnectionPoolEntry) -> None:
        if record.info.get(_ONCE):
            record.invalidate()

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "checkin", given_back)
    return place


def _configured(connection: sqlite3.Connection, busy_timeout_s: float) -> sqlite3.Connection:
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
    except UnicodeDecodeError as error:  # SQLite quotes a name that rotted, and Python takes the message for text
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
