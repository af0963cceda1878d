"""Opening the database at a start: whatever is wrong with it is said with a code of its own, and what to do."""

from __future__ import annotations

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from registry.db.engine import Database
from registry.db.faults import fault_of, first_line
from registry.db.migrations.upgrade import PRERELEASE, UnknownSchemaError, upgrade
from registry.errors import StartError, TemporaryError

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
            "pip install 'modelfleet[postgresql]'.",
        ) from error
