"""What the agent knows across a power cut: SQLite, one file, every write on disk before the call returns.

It holds the last desired document byte for byte, one record per slot, what was measured of variants, and small
facts (counters, digests). A journal that cannot be read is put aside, never repaired: the desired state comes again
from the registry, and the cache still has the files.

INVARIANT: used by the control thread only.
"""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent.core.slots import SlotRecord
from agent.errors import PermanentError, TransientError
from agent.worker.measure import Measurement
from registry.contracts.codes import DeploymentCode

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE facts (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE slots (model TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE measures (
    variant TEXT, facts TEXT, found TEXT NOT NULL, PRIMARY KEY (variant, facts)) WITHOUT ROWID;
"""
MAX_MEASURES = 256


class Journal:
    """The file `journal.db` below the data directory."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "journal.db"
        self._database: sqlite3.Connection | None = None
        self.put_aside: Path | None = None
        """Where an unreadable journal went, if there was one at `open`."""

    def open(self) -> None:
        """Opens or creates the file.

        Raises:
            PermanentError: a newer agent wrote it.
            TransientError: the disk refuses.
        """
        try:
            self._database = self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) or not self._file.exists():
                raise _disk_error(error) from error
            self._set_aside()
            self._database = self._connect()

    def close(self) -> None:
        """Safe to call twice."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def slots(self) -> dict[str, SlotRecord]:
        """All slots. A record that this version cannot read is left out: the desired state brings it again."""
        rows = self._all("SELECT model, record FROM slots")
        records = {str(model): _record(str(text)) for model, text in rows}
        return {model: record for model, record in records.items() if record is not None}

    def save(self, record: SlotRecord) -> None:
        """On disk when this returns."""
        self._run("INSERT OR REPLACE INTO slots VALUES (?, ?)", record.model, record.canonical().decode())

    def forget(self, model: str) -> None:
        """The slot is empty and not desired."""
        self._run("DELETE FROM slots WHERE model = ?", model)

    def get(self, key: str) -> bytes | None:
        """A small fact."""
        rows = self._all("SELECT value FROM facts WHERE key = ?", key)
        return bytes(rows[0][0]) if rows else None

    def put(self, key: str, value: bytes) -> None:
        """Keeps a small fact."""
        self._run("INSERT OR REPLACE INTO facts VALUES (?, ?)", key, value)

    def next_number(self, key: str) -> int:
        """1, 2, 3, ... across restarts; never the same one twice."""
        number = int(self.get(key) or b"0") + 1
        self.put(key, str(number).encode())
        return number

    def measured(self, variant: str, facts: str) -> Measurement | None:
        """What warming up found of a variant on a host with these facts, when it was measured before."""
        rows = self._all("SELECT found FROM measures WHERE variant = ? AND facts = ?", variant, facts)
        return Measurement(*json.loads(rows[0][0])) if rows else None

    def keep_measure(self, variant: str, facts: str, found: Measurement) -> None:
        """Remembers a measurement; the table is emptied when it has grown to MAX_MEASURES."""
        if int(self._all("SELECT count(*) FROM measures")[0][0]) >= MAX_MEASURES:
            self._run("DELETE FROM measures")
        self._run("INSERT OR REPLACE INTO measures VALUES (?, ?, ?)", variant, facts, json.dumps(found))

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._file, timeout=5, isolation_level=None, check_same_thread=False)
        try:
            os.chmod(self._file, 0o600)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            version = int(database.execute("PRAGMA user_version").fetchone()[0])
            self._refuse_newer(version)
            if version == 0:
                database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
            database.execute("SELECT count(*) FROM slots").fetchone()
        except BaseException:
            database.close()
            raise
        return database

    def _refuse_newer(self, version: int) -> None:
        if version > SCHEMA_VERSION:
            raise PermanentError(
                "journal_too_new",
                f"{self._file} was written by a newer agent (schema {version}, this one knows {SCHEMA_VERSION}): "
                "install that version, or drop the local state with `agent reset`",
            )

    def _set_aside(self) -> None:
        self.put_aside = self._file.with_suffix(".unreadable")
        for suffix in ("-wal", "-shm"):
            self._file.with_name(self._file.name + suffix).unlink(missing_ok=True)
        self._file.replace(self.put_aside)

    def _all(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        try:
            return self._opened().execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _disk_error(error) from error

    def _run(self, statement: str, *values: str | bytes | int) -> None:
        try:
            self._opened().execute(statement, values)
        except sqlite3.Error as error:
            raise _disk_error(error) from error

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            raise PermanentError("journal_closed", "the journal is not open: a fault of the agent")
        return self._database


def _disk_error(error: Exception) -> TransientError:
    return TransientError(DeploymentCode.DISK_ERROR, f"the journal cannot be read or written: {error}")


def _record(text: str) -> SlotRecord | None:
    try:
        return SlotRecord.model_validate_json(text)
    except ValidationError:
        return None
