"""What every table shares: the declarative base, names of constraints, types, and inserts that may meet a row.

All of it means the same on every database. Times are stored in UTC and read back aware. Rows are never called models:
that word is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, MetaData, String, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, stored as UTC. SQLite keeps no zone, so it is put back on reading.

    Raises:
        ValueError: on writing a time without a zone.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware times only, moved to UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"time without a zone: {value}")
        return value.astimezone(timezone.utc)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """UTC, aware."""
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


NAME = String(64)
WHO = String(80)
"""Who did it: the name of a token."""
DIGEST = String(71)
"""`sha256:` and 64 hex digits."""
BigId = BigInteger().with_variant(Integer, "sqlite")
"""A 64-bit key that the database counts up; SQLite does so only for its INTEGER."""


class Base(DeclarativeBase):
    """The base of all rows; every constraint has a name, so that a migration can drop it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012 - SQLAlchemy's own form


class Numbered:
    """Rows with a key that the database counts up."""

    id: Mapped[int] = mapped_column(BigId, primary_key=True, sort_order=-1)


class Made:
    """Rows that say when and by whom they were made."""

    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(WHO, default="")


def insert_new(session: Session, table: type[Base], rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    """Insert those rows whose `keys` (a unique index) are not there yet."""
    if rows:
        session.execute(_insert(session, table).on_conflict_do_nothing(index_elements=list(keys)), list(rows))


def put_rows(
    session: Session, table: type[Base], rows: Sequence[dict[str, Any]], keys: Sequence[str], kept: Sequence[str] = ()
) -> None:
    """Insert these rows, all of which have the same columns. Where the `keys` are there, their other columns change,
    except those that are `kept`."""
    if rows:
        insert = _insert(session, table)
        changed = {name: insert.excluded[name] for name in rows[0] if name not in {*keys, *kept}}
        session.execute(insert.on_conflict_do_update(index_elements=list(keys), set_=changed), list(rows))


def _insert(session: Session, table: type[Base]) -> Any:
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    # The core table, not the mapped class: the ORM would read rows back one by one.
    return dialect.insert(inspect(table).local_table)
