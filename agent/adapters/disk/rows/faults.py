"""What an error of SQLite says: that the disk refuses, or that the file is not what was written."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

from agent.adapters.disk.rows.pages import PAGE, header_fault
from agent.errors import TransientError
from registry.contracts.codes import DeploymentCode

SUM_BYTES = 16
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


FAULTS = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite's errors come as: one that quotes a corrupted name is not text, and Python says only that."""


def is_damage(error: Exception) -> bool:
    """The file is damaged; otherwise the disk refuses, or the file cannot be opened now."""
    if isinstance(error, sqlite3.OperationalError):
        return any(words in str(error).lower() for words in _DAMAGE)
    return True


def refusal(what: str, error: Exception) -> TransientError:
    """What to raise when the disk does not take or give something."""
    full = any(words in str(error) for words in _FULL)
    code = DeploymentCode.INSUFFICIENT_DISK if full else DeploymentCode.DISK_ERROR
    return TransientError(code, f"{what}: {error}; is the disk full, failing or read-only?")


def row_sum(*parts: bytes | str | int) -> bytes:
    """The checksum of a row's values: BLAKE2b of 16 bytes over each value with its length before it."""
    hasher = hashlib.blake2b(digest_size=SUM_BYTES)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.digest()


def connect_checked(path: Path) -> sqlite3.Connection:
    """The file, made when it is not there, durable by its settings. Raises sqlite3.Error."""
    wrong = header_fault(path)
    if wrong:
        raise sqlite3.DatabaseError(wrong)
    database = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    try:
        database.execute(f"PRAGMA page_size={PAGE}")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
    except BaseException:
        database.close()
        raise
    return database


def check_whole(database: sqlite3.Connection) -> None:
    """Whole as far as SQLite can tell. Raises sqlite3.DatabaseError."""
    found = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(f"malformed: {found}")
