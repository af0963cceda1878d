"""The connection to the database: the only file that knows which database it is.

SQLite runs with WAL and `synchronous=FULL` (an acknowledged commit survives a power cut), and a write
begins with BEGIN IMMEDIATE, so that it never fails half-way for want of the lock. On PostgreSQL a read is
REPEATABLE READ and a write SERIALIZABLE, so that both databases promise the same. In this process writers queue
on a mutex: that is fairer than SQLite's polling, and PostgreSQL, which would let them run side by side and then
refuse all but one, has nothing to refuse. Another process's write may still be in the way: `BusyError`.
Callers use `read()` and `write()` and SQL that both understand.

What fails in the database's own condition (`faults.py`) is a `TemporaryError`; it is logged here, once when it begins
and once when it ends, and counted. The connections that were open then are thrown away: after a fail-over they lead to
a server that is read-only, and new ones are made to whichever server the URL leads to now.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from registry.core.outage import Outage
from registry.db.after_commit import Listeners
from registry.db.faults import fault_of, first_line, refusal_of, replaced
from registry.db.sqlite_file import Place, open_as_file
from registry.errors import BusyError, InTheWayError, TemporaryError

BUSY_TIMEOUT_S = 15.0
"""How long a transaction waits for another one's lock before it is refused."""
STATEMENT_TIMEOUT_S = 120.0
"""After so long PostgreSQL gives up a statement. A host that is gone is noticed by TCP's keepalive."""
_WRITES = "modelfleet_writes"
_KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
log = logging.getLogger(__name__)


class Database:
    """Hands out sessions. Thread-safe; one per process.

    Args:
        url: `sqlite:////var/lib/modelfleet/registry.db`, `postgresql://user@host/database`.
    """

    def __init__(self, url: str) -> None:
        self._place: Place | None
        self.engine, self._place = _create_engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._write_engine = (
            self.engine.execution_options(**{_WRITES: True})
            if self.is_sqlite
            else self.engine.execution_options(isolation_level="SERIALIZABLE")
        )
        self._writer = threading.Lock()
        self.listeners = Listeners()
        """Who is told after a commit what was announced in it."""
        self.conflicts = 0
        """Writes that another process was in the way of."""
        self.refusals: Counter[str] = Counter()
        """Reads and writes that failed in the database's own condition, by code."""
        self._noting = threading.Lock()
        self._outages = {"reading": Outage("the database: reading"), "writing": Outage("the database: writing")}

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one state of the database. What it changes is rolled back.

        Raises:
            TemporaryError: the database cannot be read now.
        """
        with self._translated("reading"), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction: committed when the block ends, rolled back when it raises. What was announced in it
        (`after_commit.announce`) is told to the listeners after the commit, before this returns.

        Raises:
            BusyError: the lock was not to be had within BUSY_TIMEOUT_S, another process was in the way, or the
                database server cannot be reached. Nothing was changed, unless the connection broke while the
                server committed: repeat only what is idempotent, which every command of the registry is.
            TemporaryError: the database takes no writes, its disk is full or fails, its file was moved or removed.
            ConflictError: another process made or removed the same thing at the same moment.
            InvalidError: a text has a character that the database cannot keep.
        """
        with self._translated("writing"):
            if not self._writer.acquire(timeout=BUSY_TIMEOUT_S):
                refusal = BusyError(f"The database was locked for {BUSY_TIMEOUT_S:g} s; try again.")
                self._note("writing", refusal, "one write takes very long")
                raise refusal
            try:
                if self._place is not None and self._place.lost():
                    gone = replaced()
                    self._note("writing", gone, gone.message)
                    raise gone
                with Session(self._write_engine, expire_on_commit=False) as session, session.begin():
                    yield session
            finally:
                self._writer.release()
        self.listeners.tell(session)

    def probe(self) -> None:
        """Write something and commit it: the version of the schema over itself. Raises TemporaryError."""
        with self.write() as session:
            session.execute(text("UPDATE alembic_version SET version_num = version_num"))

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """What the database said, as errors that a client can act on."""
        try:
            yield
        except DBAPIError as error:
            fault = fault_of(error)
            if fault is None:
                raise
            refusal = refusal_of(fault, error)
            if fault.drops and self.is_sqlite:
                # What one connection of a process knows of a SQLite file, as that it is read-only, the others share.
                self.engine.pool.dispose()
            self._note(doing, refusal, first_line(error))
            raise refusal from error
        except PoolTimeoutError as error:
            refusal = BusyError("All connections to the database are in use; try again.")
            self._note(doing, refusal, refusal.message)
            raise refusal from error
        self._note(doing, None, "")

    def _note(self, doing: str, refusal: Exception | None, why: str) -> None:
        with self._noting:
            outage, now = self._outages[doing], time.monotonic()
            if isinstance(refusal, InTheWayError):
                self.conflicts += 1
            elif isinstance(refusal, TemporaryError):
                self.refusals[refusal.code] += 1
                if line := outage.failed(refusal.code, why, now):
                    log.warning("%s", line)
            elif refusal is None and (line := outage.worked(now)):
                log.warning("%s", line)

    def close(self) -> None:
        """Close all connections; SQLite then folds its log into the file."""
        self.engine.dispose()


def _create_engine(url: str) -> tuple[Engine, Place | None]:
    place = None
    if not url.startswith("sqlite"):
        scheme, colon, rest = url.partition(":")
        driver = "postgresql+psycopg" if scheme in ("postgres", "postgresql") else scheme
        timeouts = f"-c lock_timeout={BUSY_TIMEOUT_S * 1000:.0f} -c statement_timeout={STATEMENT_TIMEOUT_S * 1000:.0f}"
        engine = create_engine(
            f"{driver}{colon}{rest}",
            isolation_level="REPEATABLE READ",
            pool_pre_ping=True,
            pool_size=16,
            max_overflow=48,
            pool_timeout=BUSY_TIMEOUT_S,
            connect_args={
                "connect_timeout": round(BUSY_TIMEOUT_S),
                "options": f"{timeouts} -c idle_in_transaction_session_timeout=60000",
                **_KEEPALIVE,
            },
        )
    else:
        engine = create_engine(
            url, pool_size=16, max_overflow=48, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
        )
        place = open_as_file(engine, BUSY_TIMEOUT_S)
        event.listen(engine, "begin", _begin_sqlite)
    event.listen(engine, "handle_error", _throw_away)
    return engine, place


def _throw_away(context: ExceptionContext) -> None:
    """Tells the pool that this connection, and all that are older than now, are of no use any more."""
    error = context.sqlalchemy_exception
    if isinstance(error, DBAPIError):
        fault = fault_of(error)
        if fault is not None and fault.drops:
            context.is_disconnect = True


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
