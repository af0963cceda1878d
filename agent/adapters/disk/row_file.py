"""A file of rows that survives power cuts and corruption on the disk: one SQLite file, every write on disk before the
call returns.

Every row has a checksum: one that is corrupted is known by it. A file that SQLite refuses is read page by page
(`pages`), set aside and made again from every row that is whole. What is no file in its place is set aside, too.

Where the disk takes no writes at the start, what the file holds is read into memory, and every write is refused until
the file can be opened. The journal and the outbox are such files; each says what its rows are.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import sqlite3
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from agent.adapters.disk.damage import Damage
from agent.adapters.disk.durable import sync_folder
from agent.adapters.disk.pages import PAGE, Row, header_fault, log_is_broken, log_rows, rows
from agent.errors import PermanentError, TransientError
from registry.contracts.codes import DeploymentCode

SUM_BYTES = 16
FAULTS = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite's errors come as: one that quotes a corrupted name is not text, and Python says only that."""
_DAMAGE = (
    "no such table",
    "no such column",
    "malformed",
    "logic error",
    "decode to utf-8",
    "not a database",
    "corrupt",
)
_FULL = ("disk is full", "too big")
_BESIDE = ("-wal", "-shm")
T = TypeVar("T")
R = TypeVar("R")


def row_sum(*parts: bytes | str | int) -> bytes:
    """The checksum of a row's values: BLAKE2b of 16 bytes over each value with its length before it."""
    hasher = hashlib.blake2b(digest_size=SUM_BYTES)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.digest()


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    finally:
        if database.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")


class RowFile(ABC, Generic[R]):
    """INVARIANT: used by one thread at a time."""

    retry_s = 0.0
    """At least so long between two tries to open a file that the disk did not let us write."""

    def __init__(self, path: Path, aside: Path, what: str, refusal: str, damage: Damage | None) -> None:
        """`what` it is, for messages and for counting; `aside`: where it goes when it is damaged."""
        self._path = path
        self._aside = aside
        self._what = what
        self._refusal = refusal
        self._damage = damage or Damage()
        self._database: sqlite3.Connection | None = None
        self._reopen_at = 0.0
        """Monotonic."""
        self.read_only = ""
        """Why nothing is written down now; empty: it is."""

    # --- what the rows are ------------------------------------------------------------------------------------------

    @abstractmethod
    def _set_up(self, database: sqlite3.Connection) -> None:
        """Makes the tables of an empty file, and checks that those of another are ours. Raises what SQLite does."""

    @abstractmethod
    def _insert(self, database: sqlite3.Connection, found: Iterable[R]) -> None:
        """Adds rows; one that is there already is replaced."""

    @abstractmethod
    def _whole(self, found: Iterable[Row]) -> Sequence[R]:
        """Of what was read out of pages the newest whole rows, one of each name."""

    @abstractmethod
    def _is_newer(self, row: R) -> bool:
        """Was it written after those that were counted?"""

    @abstractmethod
    def _count(self, database: sqlite3.Connection) -> None:
        """Called whenever a file was opened: takes from it what is kept in memory."""

    def _carry_over(self, database: sqlite3.Connection) -> None:
        """Into a file that is made again: what no row of the old one says."""

    # --- for the journal and the outbox -----------------------------------------------------------------------------

    def open(self) -> None:
        """Opens or creates the file; one that the disk does not let us write is read into memory.

        Raises:
            PermanentError: a newer agent wrote it.
            TransientError: its folder is not there.
        """
        if not self._path.parent.is_dir():
            raise TransientError(DeploymentCode.DISK_ERROR, f"{self._refusal}: {self._path.parent} is not there")
        try:
            self._take_up()
        except TransientError as error:
            self.read_only, self._reopen_at = error.message, time.monotonic() + self.retry_s
            self._use(self._in_memory())

    def close(self) -> None:
        """Everything written is on disk already. Safe to call twice."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            raise PermanentError("journal_closed", f"the {self._what} is not open: a fault of the agent")
        return self._database

    def _need_file(self) -> None:
        """Before a write. Raises TransientError while the disk takes none."""
        if not self.read_only:
            return
        now, before = time.monotonic(), self._database
        if now < self._reopen_at:
            raise TransientError(DeploymentCode.DISK_ERROR, f"{self._refusal}: the disk takes no writes")
        self._reopen_at = now + self.retry_s
        self._take_up()
        self.read_only = ""
        if before is not None:
            before.close()

    def _guarded(self, work: Callable[[], T]) -> T:
        """A damaged file is recreated and the work done on that; other errors mean that the disk refuses."""
        with self._refused():
            try:
                return work()
            except FAULTS as error:
                if self.read_only or not _is_damage(error):
                    raise
                why = str(error)
            self.close()
            self._use(self._recreated(why))
            return work()

    # --- the file ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        """What SQLite and the disk say becomes a TransientError."""
        try:
            yield
        except FAULTS as error:
            full = any(words in str(error) for words in _FULL)
            code = DeploymentCode.INSUFFICIENT_DISK if full else DeploymentCode.DISK_ERROR
            text = f"{self._refusal}: {error}; is the disk full, failing or read-only?"
            raise TransientError(code, text) from error
        except OSError as error:
            raise TransientError(DeploymentCode.DISK_ERROR, f"{self._refusal}: {error}") from error

    def _use(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._count(database)

    def _take_up(self) -> None:
        """Raises TransientError when the disk refuses, PermanentError for the file of a newer agent."""
        with self._refused():
            if what := _make_way(self._path, self._aside):
                self._damage.note(self._what, f"the {self._what}: {what}; set aside as {self._aside.name}")
            late, broken = self._whole(log_rows(self._path)), log_is_broken(self._path)
            try:
                database = self._connect(self._path)
            except FAULTS as error:
                if not _is_damage(error):
                    raise
                database = self._recreated(str(error))
            if broken:
                self._add_newer(database, late)
            self._use(database)

    def _add_newer(self, database: sqlite3.Connection, late: Sequence[R]) -> None:
        """What SQLite left out because a part of its log before it is damaged, or was not there yet at a cut."""
        self._count(database)
        newer = [row for row in late if self._is_newer(row)]
        with transaction(database):
            self._insert(database, newer)
        text = f"the log of the {self._what} was damaged, or cut off while it was written"
        self._damage.note(
            self._what, f"{text}: what came last may be missing; {len(newer)} later rows were whole and kept"
        )

    def _connect(self, path: Path) -> sqlite3.Connection:
        """The file, made when it is not there, durable by its settings, ours and whole as far as SQLite can tell."""
        if wrong := header_fault(path):
            raise sqlite3.DatabaseError(wrong)
        database = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
        try:
            database.execute(f"PRAGMA page_size={PAGE}")
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            os.chmod(path, 0o600)
            self._set_up(database)
            _check_whole(database)
        except BaseException:
            database.close()
            raise
        return database

    def _recreated(self, why: str) -> sqlite3.Connection:
        """From every row that is whole anywhere in the damaged file, which is set aside."""
        kept = self._whole(rows(self._path))

        def build(fresh: Path) -> None:
            with contextlib.closing(self._connect(fresh)) as database, transaction(database):
                self._insert(database, kept)
                self._carry_over(database)

        _replace_damaged(self._path, self._aside, build)
        text = f"the {self._what} was damaged ({why}): set aside as {self._aside.name}"
        self._damage.note(self._what, f"{text}; {len(kept)} rows were whole and kept")
        return self._connect(self._path)

    def _in_memory(self) -> sqlite3.Connection:
        database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._set_up(database)
        with contextlib.suppress(OSError):
            self._insert(database, self._whole(rows(self._path)))
        return database


def _is_damage(error: Exception) -> bool:
    """The file is damaged; otherwise the disk refuses, or the file cannot be opened now."""
    if isinstance(error, sqlite3.OperationalError):
        return any(words in str(error).lower() for words in _DAMAGE)
    return True


def _check_whole(database: sqlite3.Connection) -> None:
    found = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(f"malformed: {found}")


def _make_way(path: Path, aside: Path) -> str:
    """Whatever stands in the place of a database's files and is none, as a folder, a pipe or a link that leads nowhere,
    is set aside; a file whose rights keep its owner out gets them back. Opens nothing: a pipe would never answer.

    Returns:
        What was set aside, for a message; empty when there was nothing.

    Raises:
        OSError: the disk refuses.
    """
    found = [suffix for suffix in ("", *_BESIDE) if _is_no_file(path.with_name(path.name + suffix))]
    for suffix in found:
        there = aside.with_name(aside.name + suffix)
        if there.is_dir() and not there.is_symlink():
            shutil.rmtree(there)
        path.with_name(path.name + suffix).rename(there)
    if found:
        sync_folder(path.parent)
    return ", ".join(f"{path.name}{suffix} was no file" for suffix in found)


def _is_no_file(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return path.is_symlink()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
        raise
    if stat.S_ISREG(mode) and mode & 0o600 != 0o600:
        with contextlib.suppress(OSError):  # another owner's, or a disk that takes no writes
            path.chmod(stat.S_IMODE(mode) | 0o600)
    return not stat.S_ISREG(mode)


def _replace_damaged(path: Path, aside: Path, build: Callable[[Path], None]) -> None:
    """`build` makes the new file, closed, under another name; then it takes the place of the old, which is kept as
    `aside`. A kill at any moment leaves the old one or the new one.

    Raises:
        OSError: the disk refuses; what `build` raises passes through.
    """
    fresh = path.with_name(path.name + ".new")
    for suffix in ("", *_BESIDE):
        fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    build(fresh)
    if path.exists():
        aside.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a file system without hard links: nothing is kept to be looked at
            os.link(path, aside)
    for suffix in _BESIDE:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    fresh.replace(path)
    sync_folder(path.parent)
