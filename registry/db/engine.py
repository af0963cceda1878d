"""The connection to the database: the only file that knows which database it is.

SQLite runs with WAL and `synchronous=FULL` (an acknowledged commit survives a power cut), and a write
begins with BEGIN IMMEDIATE, so that it never fails half-way for want of the lock. On PostgreSQL a read is
REPEATABLE READ and a write SERIALIZABLE, so that both databases promise the same. In this process writers queue
on a mutex: that is fairer than SQLite's polling, and PostgreSQL, which would let them run side by side and then
refuse all but one, has nothing to refuse. Another process's write may still be in the way: `BusyError`.
Callers use `read()` and `write()` and SQL that both understand.

What fails in the database's own condition (`faults.py`) is a `TemporaryError`; it is logged here, once when it begins
and once when it ends, and counted. The connections that were open then are thrown away: after a fail-over they lead to
a server that is read-only, and new ones are made to whichever server the URL leads to now. What is wrong when the
database is opened at a start (`open_database`) is said with a code of its own, and what to do.

After its commit a transaction tells this process what it changed: whoever writes a row calls `announce` in the same
transaction. `Database.write()` calls the listeners when the transaction is committed, outside of it and of the writers'
queue; after a rollback it calls nobody. Another process hears nothing, so whoever listens looks from time to time as
well.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import Enum, auto
from pathlib import Path

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from registry.core.outage import Outage
from registry.db.faults import fault_of, first_line, refusal_of, replaced
from registry.db.migrations.upgrade import PRERELEASE, UnknownSchemaError, upgrade
from registry.db.sqlite_file import Place, open_as_file
from registry.errors import BusyError, InTheWayError, StartError, TemporaryError
from registry.installation import install_command

log = logging.getLogger(__name__)
_ANNOUNCED = "modelfleet_announced"


class Changed(Enum):
    """What can be announced."""

    DOCUMENTS = auto()
    """Desired documents."""
    EVENTS = auto()
    """The fleet's log has more entries."""
    FLEET = auto()
    """Devices, their labels or facts, or groups: a rollout may have newcomers."""
    ROLLOUTS = auto()
    """A rollout, or a device of one, went on: its next step may be due."""
    TOKEN = auto()
    """The token of this name was replaced or revoked."""


def announce(session: Session, changed: Changed, name: str = "") -> None:
    """Have the listeners called after the commit, once for each name."""
    session.info.setdefault(_ANNOUNCED, {})[changed, name] = None


class Listeners:
    """Who is told. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: tuple[tuple[Changed, Callable[[str], object]], ...] = ()

    def add(self, changed: Changed, listener: Callable[[str], object]) -> Callable[[], None]:
        """`listener` is called with the name, in the writer's thread; it must not block. Returns what ends that."""
        entry = (changed, listener)
        with self._lock:
            self._listeners = (*self._listeners, entry)

        def end() -> None:
            with self._lock:
                self._listeners = tuple(each for each in self._listeners if each is not entry)

        return end

    def tell(self, session: Session) -> None:
        """The session is committed. A listener that raises is logged, and the others are called."""
        for changed, name in session.info.pop(_ANNOUNCED, ()):
            for wanted, listener in self._listeners:
                if wanted is changed:
                    try:
                        listener(name)
                    except Exception:
                        log.exception("a listener of %s failed", changed.name)


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


class Database:
    """Hands out sessions. Thread-safe; one per process.

    Args:
        url: `sqlite:////var/lib/modelfleet/registry.db`, `postgresql://user@host/database`.
    """

    def __init__(self, url: str) -> None:
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
        (`announce`) is told to the listeners after the commit, before this returns.

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

    def size_bytes(self, session: Session) -> int | None:
        """Bytes of the whole database, its journal included; None: it does not say."""
        if not self.is_sqlite:
            return int(session.scalar(text("SELECT pg_database_size(current_database())")) or 0)
        file = self.engine.url.database or ""
        found = [size for suffix in ("", "-wal", "-shm") if (size := _file_size(file + suffix)) is not None]
        return sum(found) if found else None

    def schema(self, session: Session) -> str:
        """The revision of the schema that the database has."""
        return str(session.scalar(text("SELECT version_num FROM alembic_version")))

    def clock(self, session: Session) -> datetime | None:
        """What time the database server has; None: the database is in this process."""
        if self.is_sqlite:
            return None
        found: datetime | None = session.scalar(text("SELECT clock_timestamp()"))
        return found

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


def _file_size(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except OSError:
        return None


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
    fault = fault_of(error) if isinstance(error, DBAPIError) else None
    if fault is not None and fault.drops:
        context.is_disconnect = True


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


_EXPECTED = "sqlite:////folder/registry.db, or postgresql://user:password@host/database"
_ADVICE = {
    "busy": ("database_unreachable", "Is the server running, and do address, user and password fit?", False),
    "read_only": ("read_only", "Its schema is missing or old, and it takes no writes to make or upgrade it.", False),
    "insufficient_storage": ("insufficient_storage", "Free some room on its disk.", False),
    "storage_failed": (
        "database_unusable",
        "Look at its disk, its rights (the registry makes tables) and whether it is damaged.",
        True,
    ),
}
"""By the code that a running registry would answer: the code of the start, what to do, whether that comes first."""


def open_database(url: str) -> Database:
    """A database with the newest schema. Never says the URL, which may have a password.

    Raises:
        StartError: `database_url`, `driver_missing`, `database_newer`, `database_prerelease`, `database_unreachable`,
            `database_unusable`, `read_only`, `insufficient_storage`.
    """
    database = _made(url)
    try:
        upgrade(database.engine)
    except UnknownSchemaError as error:
        database.close()
        if error.revision in PRERELEASE:
            raise StartError(
                "database_prerelease",
                f"The database has the schema {error.revision}, from before the first release, and cannot be upgraded. "
                "Start with an empty database: move the file away, or name another one in database_url; then publish, "
                "register the devices and deploy again. Nothing was changed.",
            ) from None
        raise StartError(
            "database_newer",
            f"The database has the schema {error.revision}, which this version of the registry does not know: a newer "
            "version has used it. Upgrade the registry, or restore the backup from before. Nothing was changed.",
        ) from None
    except DBAPIError as error:
        database.close()
        fault = fault_of(error)
        kind = fault.refusal.code if fault is not None and issubclass(fault.refusal, TemporaryError) else ""
        code, advice, lasting = _ADVICE.get(kind, _ADVICE["storage_failed"])
        raise StartError(
            code, f"The database cannot be opened: {first_line(error)}. {advice}", lasting=lasting
        ) from error
    return database


def _made(url: str) -> Database:
    try:
        parts = make_url(url)
        kind, _, driver = parts.drivername.partition("+")
        in_memory = kind == "sqlite" and parts.database in (None, "", ":memory:")
    except (ArgumentError, ValueError):
        raise StartError("database_url", f"database_url is no database's URL; it looks like {_EXPECTED}.") from None
    if kind not in ("sqlite", "postgresql", "postgres") or driver not in ("", "pysqlite", "psycopg") or in_memory:
        what = "a database in memory, which forgets" if in_memory else f"{parts.drivername!r}"
        raise StartError("database_url", f"database_url names {what}; the registry takes {_EXPECTED}.")
    try:
        return Database(url)
    except ImportError as error:
        raise StartError(
            "driver_missing",
            f"PostgreSQL needs its driver, which does not load here ({error}). Install it with: "
            f"{install_command('postgresql')}",
        ) from error
