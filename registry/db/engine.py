"""The connection to the database: the only file that knows which database it is.

SQLite runs with WAL and `synchronous=FULL` (an acknowledged commit survives a power cut), and a write
begins with BEGIN IMMEDIATE, so that it never fails half-way for want of the lock. On PostgreSQL a read is
REPEATABLE READ and a write SERIALIZABLE, so that both databases promise the same. In this process writers queue
on a mutex: that is fairer than SQLite's polling, and PostgreSQL, which would let them run side by side and then
refuse all but one, has nothing to refuse. Another process's write may still be in the way: `BusyError`.
Callers use `read()` and `write()` and SQL that both understand.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from registry.errors import BusyError, ConflictError, InTheWayError, InvalidError, StorageFullError

BUSY_TIMEOUT_S = 15.0
"""How long a transaction waits for another one's lock before it is refused."""
_WRITES = "modelfleet_writes"
_IN_THE_WAY = ("locked", "could not serialize", "deadlock", "lock timeout")
_MADE_OR_GONE = ("23503", "23505")
"""SQLSTATEs of PostgreSQL (appendix A): foreign_key_violation, unique_violation. Every use case looks first, so another
process was faster; on SQLite, where a writer is alone, it would be a fault of ours and stays one."""
_AWAY = (
    "connection refused",
    "connection failed",
    "connection timeout",
    "server closed the connection",
    "terminating connection",
    "the connection is lost",
    "is starting up",
    "is shutting down",
    "too many clients",
)
"""What psycopg says; there is no error class for it before a connection stands."""


class Database:
    """Hands out sessions. Thread-safe; one per process.

    Args:
        url: `sqlite:////var/lib/modelfleet/registry.db`, `postgresql://user@host/database`.
    """

    def __init__(self, url: str) -> None:
        self.engine = _create_engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._write_engine = (
            self.engine.execution_options(**{_WRITES: True})
            if self.is_sqlite
            else self.engine.execution_options(isolation_level="SERIALIZABLE")
        )
        self._writer = threading.Lock()
        self.conflicts = 0
        """Writes that another process was in the way of."""

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one state of the database. What it changes is rolled back.

        Raises:
            BusyError: the database server cannot be reached.
        """
        with _translated(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction: committed when the block ends, rolled back when it raises.

        Raises:
            BusyError: the lock was not to be had within BUSY_TIMEOUT_S, another process was in the way, or the
                database server cannot be reached. Nothing was changed, unless the connection broke while the
                server committed: repeat only what is idempotent, which every command of the registry is.
            ConflictError: another process made or removed the same thing at the same moment.
            InvalidError: a text has a character that the database cannot keep.
            StorageFullError: the disk has no room.
        """
        if not self._writer.acquire(timeout=BUSY_TIMEOUT_S):
            raise BusyError(f"The database was locked for {BUSY_TIMEOUT_S:g} s; try again.")
        try:
            with _translated(), Session(self._write_engine, expire_on_commit=False) as session, session.begin():
                yield session
        except InTheWayError:
            self.conflicts += 1
            raise
        finally:
            self._writer.release()

    def close(self) -> None:
        """Close all connections; SQLite then folds its log into the file."""
        self.engine.dispose()


def _create_engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        scheme, colon, rest = url.partition(":")
        driver = "postgresql+psycopg" if scheme in ("postgres", "postgresql") else scheme
        milliseconds = f"{BUSY_TIMEOUT_S * 1000:.0f}"
        return create_engine(
            f"{driver}{colon}{rest}",
            isolation_level="REPEATABLE READ",
            pool_pre_ping=True,
            pool_size=16,
            max_overflow=48,
            pool_timeout=BUSY_TIMEOUT_S,
            connect_args={
                "connect_timeout": round(BUSY_TIMEOUT_S),
                "options": f"-c lock_timeout={milliseconds} -c idle_in_transaction_session_timeout=60000",
            },
        )
    engine = create_engine(
        url, pool_size=16, max_overflow=48, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
    )
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy begins transactions itself, see _begin_sqlite
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_TIMEOUT_S * 1000:.0f}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    """A full disk, a lost lock, a server that is away: as errors that a client can act on."""
    try:
        yield
    except OperationalError as error:
        text = str(error.orig)
        if "disk is full" in text or "No space left" in text:
            raise StorageFullError("The disk with the registry's database is full.") from error
        if any(sign in text for sign in _IN_THE_WAY):
            raise InTheWayError("Another transaction was in the way; try again.") from error
        if error.connection_invalidated or any(sign in text for sign in _AWAY):
            raise BusyError("The database server cannot be reached; try again.") from error
        raise
    except PoolTimeoutError as error:
        raise BusyError("All connections to the database are in use; try again.") from error
    except IntegrityError as error:
        if getattr(error.orig, "sqlstate", None) not in _MADE_OR_GONE:
            raise
        raise ConflictError(
            "Another request made or removed the same thing at this moment; look at it again."
        ) from error
    except DataError as error:
        raise InvalidError(f"The database cannot keep this: {_first_line(error)}") from error


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0][:200]
