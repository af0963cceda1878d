"""Entries that survive power cuts and corruption on the disk: one SQLite file, every write on disk before the call
returns.

What is corrupted in one table is read from the other and written again (`entries`). A file that SQLite refuses is read
page by page (`pages`), set aside as `.unreadable` and made again from every entry that is whole.

Where the disk takes no writes at the start, what the file holds is read into memory, and every write is refused until
the file can be opened.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from agent.adapters.disk.damage import Damage
from agent.adapters.disk.rows.entries import (
    SCHEMA_VERSION,
    TABLES,
    JournalEntry,
    delete,
    drop_damaged,
    insert,
    is_ours,
    last_number,
    make,
    newest,
    prepare,
    select,
    transaction,
    whole,
)
from agent.adapters.disk.rows.faults import FAULTS, check_whole, connect_checked, is_damage, refusal
from agent.adapters.disk.rows.pages import log_is_broken, log_rows, rows
from agent.adapters.disk.rows.rebuild import make_way, replace_damaged
from agent.errors import PermanentError, TransientError
from registry.contracts.codes import DeploymentCode

T = TypeVar("T")


class EntryFile:
    """INVARIANT: used by one thread only."""

    def __init__(self, file: Path, what: str, damage: Damage) -> None:
        """`what` it is, for messages and for counting: `journal`."""
        self._file = file
        self._what = what
        self._refusal = f"the {what} cannot be read or written"
        self._damage = damage
        self._database: sqlite3.Connection | None = None
        self._number = 0
        self.put_aside: Path | None = None
        """Where an unreadable file went, if there was one."""
        self.read_only = ""
        """Why nothing is written down now; empty: it is."""

    def open(self) -> None:
        """Opens or creates the file; one that the disk does not let us write is read into memory.

        Raises:
            PermanentError: a newer agent wrote it.
            TransientError: its folder is not there.
        """
        if not self._file.parent.is_dir():
            raise TransientError(DeploymentCode.DISK_ERROR, f"{self._refusal}: {self._file.parent} is not there")
        try:
            self._take_up()
        except TransientError as error:
            self.read_only = error.message
            self._database = self._in_memory()

    def close(self) -> None:
        """Safe to call twice."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def entries(self, kind: str, key: str | None = None) -> list[JournalEntry]:
        """The newest whole one of each key; one that is whole in one table only is written again in both.

        Raises:
            TransientError: the disk refuses.
        """
        return self._guarded(lambda: self._checked(kind, key))

    def put(self, kind: str, key: str, value: bytes) -> None:
        """On disk when this returns. Raises TransientError, and then nothing has changed."""
        self._write(lambda database: insert(database, [JournalEntry(kind, key, self._number + 1, value)]))
        self._number += 1

    def remove(self, kind: str, key: str | None = None) -> None:
        """One, or all of a kind. As `put`."""
        self._write(lambda database: delete(database, kind, key))

    def _checked(self, kind: str, key: str | None) -> list[JournalEntry]:
        found = [select(self._opened(), table, kind, key) for table in TABLES]
        best = list(newest(entry for entries, _ in found for entry in entries).values())
        bad = sum(wrong for _, wrong in found)
        if bad or any(len(entries) != len(best) for entries, _ in found):
            text = f"the {self._what}: {max(bad, 1)} rows of kind {kind} were damaged; {len(best)} entries are whole"
            self._damage.note(self._what, text, max(bad, 1))
            self._heal(best)
        return best

    def _heal(self, entries: list[JournalEntry]) -> None:
        """Where the disk refuses, it is healed when it is read again."""
        if not self.read_only:
            with contextlib.suppress(sqlite3.OperationalError), transaction(self._opened()) as database:
                drop_damaged(database)
                insert(database, entries)

    def _write(self, work: Callable[[sqlite3.Connection], None]) -> None:
        if self.read_only:
            self._reopen()

        def write() -> None:
            with transaction(self._opened()) as database:
                work(database)

        self._guarded(write)

    def _guarded(self, work: Callable[[], T]) -> T:
        """A damaged file is recreated and the work done on that; other errors mean that the disk refuses."""
        try:
            return work()
        except FAULTS as error:
            if not is_damage(error) or self.read_only:
                raise refusal(self._refusal, error) from error
            why = str(error)
        try:
            self._recreate(why)
            return work()
        except FAULTS as error:
            raise refusal(self._refusal, error) from error
        except OSError as error:
            raise TransientError(DeploymentCode.DISK_ERROR, f"{self._refusal}: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            raise PermanentError("journal_closed", f"the {self._what} is not open: a fault of the agent")
        return self._database

    # --- the file -----------------------------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """Raises TransientError when the disk refuses, PermanentError for the file of a newer agent."""
        try:
            self._make_way()
            late = whole(log_rows(self._file))
            broken = log_is_broken(self._file)
            self._connect_or_recreate()
            if broken:
                self._add_newer(late.values())
        except FAULTS as error:
            raise refusal(self._refusal, error) from error
        except OSError as error:
            raise TransientError(DeploymentCode.DISK_ERROR, f"{self._refusal}: {error}") from error

    def _make_way(self) -> None:
        aside = self._file.with_suffix(".unreadable")
        what = make_way(self._file, aside)
        if what:
            self.put_aside = aside
            self._damage.note(self._what, f"the {self._what}: {what}; set aside as {aside.name}")

    def _connect_or_recreate(self) -> None:
        try:
            self._database = self._connect(self._file)
        except FAULTS as error:
            if not is_damage(error):
                raise
            self._recreate(str(error))

    def _connect(self, file: Path) -> sqlite3.Connection:
        database = connect_checked(file)
        try:
            prepare(database)
            os.chmod(file, 0o600)
            self._check(database)
            self._number = last_number(database)
        except BaseException:
            database.close()
            raise
        return database

    def _check(self, database: sqlite3.Connection) -> None:
        """It is of this schema, or empty and then made; and whole as far as SQLite can tell."""
        version = int(database.execute("PRAGMA user_version").fetchone()[0])
        if is_ours(database):
            if version != SCHEMA_VERSION:
                database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        elif version > SCHEMA_VERSION:
            raise PermanentError(
                "journal_too_new",
                f"{self._file} was written by a newer agent (schema {version}, this one knows {SCHEMA_VERSION}): "
                "install that version, or drop the local state with `agent reset`",
            )
        elif version or database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise sqlite3.DatabaseError(f"malformed, or of schema {version}, which no release wrote")
        else:
            make(database)
        check_whole(database)

    def _recreate(self, why: str) -> None:
        """From every entry that is whole anywhere in the damaged file, which is set aside."""
        self.close()
        kept = whole(rows(self._file))
        self.put_aside = self._file.with_suffix(".unreadable")

        def build(fresh: Path) -> None:
            with contextlib.closing(self._connect(fresh)) as database, transaction(database):
                insert(database, kept.values())

        replace_damaged(self._file, self.put_aside, build)
        self._database = self._connect(self._file)
        self._number = max([self._number, *(entry.number for entry in kept.values())])
        text = (
            f"the {self._what} was damaged ({why}): set aside as {self.put_aside.name}; {len(kept)} entries were kept"
        )
        self._damage.note(self._what, text)

    def _add_newer(self, late: Iterable[JournalEntry]) -> None:
        """What SQLite left out because a part of its log before it is damaged, or was not there yet at a cut."""
        newer = [entry for entry in late if entry.number > self._number]
        with transaction(self._opened()) as database:
            insert(database, newer)
        self._number = max([self._number, *(entry.number for entry in newer)])
        text = (
            f"the log of the {self._what} was damaged, or cut off while it was written: what came last may be missing"
        )
        self._damage.note(self._what, f"{text}; {len(newer)} later entries were whole and kept")

    def _in_memory(self) -> sqlite3.Connection:
        database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        prepare(database)
        make(database)
        with contextlib.suppress(OSError):
            insert(database, whole(rows(self._file)).values())
        return database

    def _reopen(self) -> None:
        """Raises TransientError while the disk still refuses."""
        before = self._database
        try:
            self._take_up()
        except BaseException:
            self._database = before
            raise
        self.read_only = ""
        if before is not None:
            before.close()
