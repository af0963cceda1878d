"""Inserts that may meet a row: the one place that knows how SQLite and PostgreSQL say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from registry.db.base import Base


def insert_new(session: Session, table: type[Base], rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    """Insert those rows whose `keys` (a unique index) are not there yet."""
    if rows:
        session.execute(_insert(session, table).on_conflict_do_nothing(index_elements=list(keys)), list(rows))


def _insert(session: Session, table: type[Base]) -> Any:
    dialect = session.get_bind().dialect.name
    # The core table, not the mapped class: the ORM would read rows back one by one.
    return (sqlite if dialect == "sqlite" else postgresql).insert(inspect(table).local_table)
