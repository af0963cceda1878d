"""What an error of the database means, by SQLSTATE and by SQLite's result code."""

from __future__ import annotations

import sqlite3

import pytest
from psycopg import OperationalError as PgOperationalError
from psycopg import errors as pg
from sqlalchemy.exc import DBAPIError

from registry.db.faults import fault_of
from registry.errors import (
    BusyError,
    ConflictError,
    InTheWayError,
    InvalidError,
    ReadOnlyError,
    StorageFailedError,
    StorageFullError,
    TemporaryError,
)

KINDS = {
    "25006": ReadOnlyError,
    "0A000": ReadOnlyError,
    "57P01": BusyError,
    "57P02": BusyError,
    "57P03": BusyError,
    "57014": BusyError,
    "08006": BusyError,
    "25P02": BusyError,
    "25P03": BusyError,
    "26000": BusyError,
    "53200": BusyError,
    "53300": BusyError,
    "53100": StorageFullError,
    "40001": InTheWayError,
    "40P01": InTheWayError,
    "55P03": InTheWayError,
    "58030": StorageFailedError,
    "XX001": StorageFailedError,
    "42501": StorageFailedError,
    "28P01": StorageFailedError,
    "23505": ConflictError,
    "22021": InvalidError,
    "22003": InvalidError,
    "54000": InvalidError,
}


def wrapped(error: BaseException, base: type[Exception]) -> DBAPIError:
    made = DBAPIError.instance("SELECT 1", {}, error, base)  # type: ignore[arg-type]
    assert isinstance(made, DBAPIError)
    return made


@pytest.mark.parametrize("sqlstate", KINDS)
def test_postgresql_says_what_it_is_by_sqlstate(sqlstate: str) -> None:
    fault = fault_of(wrapped(pg.lookup(sqlstate)("what it says"), pg.Error))
    assert fault is not None
    assert fault.refusal is KINDS[sqlstate]


def test_a_connection_that_is_refused_or_breaks_has_no_sqlstate_and_is_no_fault_of_a_message() -> None:
    fault = fault_of(wrapped(PgOperationalError("name or service not known"), pg.Error))
    assert fault is not None
    assert fault.refusal is BusyError


@pytest.mark.parametrize("sqlstate", ["42601", "23514"])
def test_a_statement_of_ours_that_is_wrong_is_no_condition_of_the_database(sqlstate: str) -> None:
    assert fault_of(wrapped(pg.lookup(sqlstate)("what it says"), pg.Error)) is None


def test_only_what_lies_in_the_data_is_not_temporary() -> None:
    kinds = [kind for kind in vars(pg).values() if isinstance(kind, type) and issubclass(kind, pg.Error)]
    states = {sqlstate for kind in kinds if (sqlstate := kind.sqlstate)}
    assert len(states) > 200
    for sqlstate in states:
        fault = fault_of(wrapped(pg.lookup(sqlstate)("what it says"), pg.Error))
        if fault is not None and not issubclass(fault.refusal, TemporaryError):
            assert sqlstate[:2] in ("22", "23", "54"), sqlstate


SQLITE = {
    (sqlite3.OperationalError, "database is locked", "SQLITE_BUSY_SNAPSHOT"): InTheWayError,
    (sqlite3.OperationalError, "database table is locked", "SQLITE_LOCKED"): InTheWayError,
    (sqlite3.OperationalError, "attempt to write a readonly database", "SQLITE_READONLY_DBMOVED"): ReadOnlyError,
    (sqlite3.OperationalError, "database or disk is full", "SQLITE_FULL"): StorageFullError,
    (sqlite3.OperationalError, "disk I/O error", "SQLITE_IOERR_WRITE"): StorageFailedError,
    (sqlite3.OperationalError, "unable to open database file", "SQLITE_CANTOPEN"): StorageFailedError,
    (sqlite3.DatabaseError, "database disk image is malformed", "SQLITE_CORRUPT_VTAB"): StorageFailedError,
    (sqlite3.DatabaseError, "file is not a database", "SQLITE_NOTADB"): StorageFailedError,
}


@pytest.mark.parametrize("named", [True, False], ids=["by name", "by text"])
@pytest.mark.parametrize(("kind", "text", "name"), SQLITE)
def test_sqlite_says_what_it_is_by_its_result_code(
    kind: type[sqlite3.Error], text: str, name: str, named: bool
) -> None:
    error = kind(text)
    if named:
        error.sqlite_errorname = name
    fault = fault_of(wrapped(error, sqlite3.Error))
    assert fault is not None
    assert fault.refusal is SQLITE[kind, text, name]


def test_a_fault_of_a_statement_on_sqlite_is_ours() -> None:
    assert fault_of(wrapped(sqlite3.OperationalError("no such table: nothing"), sqlite3.Error)) is None
