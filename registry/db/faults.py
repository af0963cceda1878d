"""What an error of the database means: whose fault it is, whether it passes, and what becomes of the connection.

PostgreSQL says it by SQLSTATE (appendix A of its manual), SQLite by the name of its result code. RULE: what a request
or a message brought about has classes of its own there (22, 23, 54); everything else is the database's condition.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError, InterfaceError, InternalError, OperationalError

from registry.db.sqlite_file import REPLACED
from registry.errors import (
    BusyError,
    ConflictError,
    InTheWayError,
    InvalidError,
    ReadOnlyError,
    RegistryError,
    StorageFailedError,
    StorageFullError,
)


@dataclass(frozen=True)
class DatabaseFault:
    """A kind of error."""

    refusal: type[RegistryError]
    text: str
    """For a client. What the database itself said goes into the log only, unless it ends with a colon."""
    drops: bool = True
    """The connection, and all that were made before it, are thrown away: they may lead to the wrong server."""


_IN_THE_WAY = DatabaseFault(InTheWayError, "Another transaction was in the way; try again.", drops=False)
_AWAY = DatabaseFault(BusyError, "The database server cannot be reached; try again.")
_SHORT = DatabaseFault(BusyError, "The database server has no room for more work; try again.")
_CANCELED = DatabaseFault(BusyError, "The database server gave up a statement; try again.")
_READ_ONLY = DatabaseFault(ReadOnlyError, "The database takes no writes at the moment; try again later.")
_FULL = DatabaseFault(StorageFullError, "The disk with the registry's database is full.", drops=False)
_DENIED = DatabaseFault(StorageFailedError, "The database does not let the registry do this; its operator has to look.")
_DAMAGED = DatabaseFault(
    StorageFailedError, "The registry's database is damaged or its disk fails; its operator has to look."
)
_REPLACED = DatabaseFault(
    StorageFailedError, f"{REPLACED}; put it back, or stop the registry and restore a backup.", drops=False
)
_FAILING = DatabaseFault(
    _DAMAGED.refusal, _DAMAGED.text, drops=False
)  # what is open may read on; nothing new may be opened
_CONFLICT = DatabaseFault(
    ConflictError, "Another request made or removed the same thing at this moment; look at it again.", drops=False
)
_DATA = DatabaseFault(InvalidError, "The database cannot keep this:", drops=False)

_OF_SQLSTATE = {
    "08": _AWAY,
    "0A": _READ_ONLY,  # a hot standby takes no serializable transaction
    "22": _DATA,
    "23503": _CONFLICT,
    "23505": _CONFLICT,
    "25": _AWAY,  # a transaction that the server has ended
    "25006": _READ_ONLY,
    "26": _AWAY,  # a prepared statement that another server, behind a proxy, does not know
    "28": _DENIED,
    "3D": _DENIED,
    "3F": _DENIED,
    "40001": _IN_THE_WAY,
    "40P01": _IN_THE_WAY,
    "42501": _DENIED,
    "42P01": _DENIED,  # a table that is not there (yet), as while a backup is played back
    "53": _SHORT,
    "53100": _FULL,
    "54": _DATA,
    "55P03": _IN_THE_WAY,
    "57": _AWAY,
    "57014": _CANCELED,
    "58": _DAMAGED,
    "72": _CANCELED,
    "F0": _DENIED,
    "XX": _DAMAGED,
}
"""By SQLSTATE or its class, its first two characters; the longer one wins. That a row is missing or there already
(23503, 23505): every use case looks first, so another process was faster."""
_OF_SQLITE = {
    "SQLITE_BUSY": _IN_THE_WAY,
    "SQLITE_LOCKED": _IN_THE_WAY,
    "SQLITE_PROTOCOL": _IN_THE_WAY,
    "SQLITE_FULL": _FULL,
    "SQLITE_READONLY": _READ_ONLY,
    "SQLITE_PERM": _DENIED,
    "SQLITE_AUTH": _DENIED,
    "SQLITE_CANTOPEN": _DENIED,
    "SQLITE_IOERR": _FAILING,
    "SQLITE_CORRUPT": _DAMAGED,
    "SQLITE_NOTADB": _DAMAGED,
    "SQLITE_TOOBIG": _DATA,
}
_OF_TEXT = {
    REPLACED: _REPLACED,
    "locked": _IN_THE_WAY,
    "locking protocol": _IN_THE_WAY,
    "is full": _FULL,
    "readonly": _READ_ONLY,
    "unable to open": _DENIED,
    "disk I/O error": _FAILING,
    "malformed": _DAMAGED,
    "not a database": _DAMAGED,
    "too big": _DATA,
    "too large to convert": _DATA,
}
"""Python 3.10 gives SQLite's text only."""


def fault_of(error: DBAPIError) -> DatabaseFault | None:
    """The kind of an error; None: nobody foresaw it, as a fault in a statement of ours."""
    orig = error.orig
    sqlstate = getattr(orig, "sqlstate", None)
    if type(orig).__module__.startswith("sqlite3"):
        return _of_sqlite(error)
    if isinstance(sqlstate, str):
        if "cached plan" in str(orig):
            return _AWAY
        return _OF_SQLSTATE.get(sqlstate) or _OF_SQLSTATE.get(sqlstate[:2])
    # Without a connection there is no SQLSTATE, and none when it breaks.
    return _AWAY if isinstance(error, (OperationalError, InterfaceError, InternalError)) else None


def _of_sqlite(error: DBAPIError) -> DatabaseFault | None:
    if isinstance(error, IntegrityError) or not isinstance(error, DatabaseError):
        return None  # a writer is alone, so a conflict is a fault of ours
    name = getattr(error.orig, "sqlite_errorname", None)
    if name is not None:
        return _OF_SQLITE.get("_".join(name.split("_")[:2]))
    text = str(error.orig)
    return next((fault for sign, fault in _OF_TEXT.items() if sign in text), None)


def replaced() -> RegistryError:
    """What to answer to a write when the file is not the one that was opened."""
    return _REPLACED.refusal(_REPLACED.text)


def refusal_of(fault: DatabaseFault, error: DBAPIError) -> RegistryError:
    """What a client is told."""
    said = f" {first_line(error)}" if fault.text.endswith(":") else ""
    return fault.refusal(fault.text + said)


def first_line(error: DBAPIError) -> str:
    """What the database said, in short."""
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
    text = str(error.orig).strip().partition("\n")[0][:200]
    return f"{text} ({code})" if code else text
