"""Queries that many services need: what was looked for or an error, many values at a time, and the catalogue's rows: by
name or alias, and as the API shows them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.contracts.api.versions import AliasView, ModelView, VariantView, VersionView
from registry.contracts.wire import Digest
from registry.db.catalog_rows import AliasMoveRow, AliasRow, EarlierManifestRow, ModelRow, VersionRow
from registry.db.engine import Database
from registry.errors import InTheWayError, NotFoundError
from registry.services.withdrawn import COUNTS_AS_NEWEST, taken_back_of, yank_of

T = TypeVar("T")
IN_LIST = 500
"""Values in one IN list: databases bound them, and long ones are slow to parse."""


class UseCases:
    """What is done with the database on behalf of somebody. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database


def found(row: T | None, message: str) -> T:
    """What was looked for. Raises NotFoundError with the message where there is none."""
    if row is None:
        raise NotFoundError(message)
    return row


TRIES = 5
"""Where several processes write the same, each tries so often."""


def retried(transaction: Callable[[], T]) -> T:
    """Do it again where another process was in the way, TRIES times. Raises what the last try raises."""
    for _ in range(TRIES - 1):
        with suppress(InTheWayError):
            return transaction()
    return transaction()


def given(*filters: tuple[InstrumentedAttribute[Any], Any]) -> list[ColumnElement[bool]]:
    """Conditions: each column has its value, where a value is given."""
    return [column == value for column, value in filters if value is not None]


def batches(items: Sequence[T], size: int = IN_LIST) -> Iterator[Sequence[T]]:
    """The items in their order, up to `size` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def in_batches(
    session: Session, query: Any, column: InstrumentedAttribute[Any], values: Sequence[Any]
) -> Iterator[Any]:
    """The rows of a `select` in which the column has one of the values, asked for IN_LIST of them at a time."""
    for some in batches(values):
        yield from session.execute(query.where(column.in_(some)))


def find_model(session: Session, model: str) -> ModelRow:
    """The model's row. Raises NotFoundError."""
    return found(session.get(ModelRow, model), f"There is no model named {model!r}.")


def find_version(session: Session, model: str, name: str) -> VersionRow:
    """The version of that name, or the one that the alias of that name points to. Raises NotFoundError."""
    row = exact_version(session, model, name)
    if row is None:
        alias = session.get(AliasRow, (model, name))
        row = exact_version(session, model, alias.version) if alias is not None and alias.version else None
    if row is None:
        find_model(session, model)
        raise NotFoundError(f"Model {model!r} has no version or alias {name!r}.")
    return row


def exact_version(session: Session, model: str, version: str) -> VersionRow | None:
    """The version of exactly that name, or None."""
    return session.scalar(select(VersionRow).where(VersionRow.model == model, VersionRow.version == version))


def manifest_body(session: Session, digest: str) -> bytes | None:
    """The canonical bytes of a published manifest, the newest of its version or an earlier one; None: not here."""
    body = session.scalar(select(VersionRow.body).where(VersionRow.manifest == digest))
    if body is None:
        body = session.scalar(select(EarlierManifestRow.body).where(EarlierManifestRow.manifest == digest))
    return body


def manifests_of(session: Session, row: VersionRow) -> list[Digest]:
    """All that the version ever had, newest first."""
    query = select(EarlierManifestRow.manifest).where(EarlierManifestRow.version_id == row.id)
    return [row.manifest, *session.scalars(query.order_by(EarlierManifestRow.revision.desc()))]


def version_views(session: Session, rows: Sequence[VersionRow]) -> list[VersionView]:
    """The versions with their aliases, in the order given; one query for all."""
    aliases: dict[tuple[str, str], list[str]] = defaultdict(list)
    models = {row.model for row in rows}
    for alias in session.scalars(select(AliasRow).where(AliasRow.model.in_(models)).order_by(AliasRow.alias)):
        if alias.version is not None:
            aliases[alias.model, alias.version].append(alias.alias)
    return [
        VersionView(
            model=row.model,
            version=row.version,
            manifest=row.manifest,
            created_at=row.created_at,
            created_by=row.created_by,
            size=row.size,
            variants=tuple(VariantView.model_validate(variant) for variant in row.variants),
            aliases=tuple(aliases[row.model, row.version]),
            revision=row.revision,
            yanked=yank_of(row),
            taken_back=taken_back_of(row),
        )
        for row in rows
    ]


def model_views(session: Session, rows: Sequence[ModelRow]) -> list[ModelView]:
    """The models with their newest versions and aliases; a fixed number of queries."""
    names = [row.name for row in rows]
    grouped = select(VersionRow.model, func.count()).where(VersionRow.model.in_(names)).group_by(VersionRow.model)
    counts = {model: count for model, count in session.execute(grouped)}  # noqa: C416 - rows are no pairs
    good = select(func.max(VersionRow.id)).where(VersionRow.model.in_(names), *COUNTS_AS_NEWEST)
    last = session.scalars(good.group_by(VersionRow.model)).all()
    newest = session.scalars(select(VersionRow).where(VersionRow.id.in_(last))).all()
    latest = {view.model: view for view in version_views(session, newest)}
    aliases: dict[str, dict[str, str]] = defaultdict(dict)
    for alias in session.scalars(select(AliasRow).where(AliasRow.model.in_(names)).order_by(AliasRow.alias)):
        if alias.version is not None:
            aliases[alias.model][alias.alias] = alias.version
    return [
        ModelView(
            name=row.name,
            created_at=row.created_at,
            versions=counts.get(row.name, 0),
            latest=latest.get(row.name),
            aliases=aliases[row.name],
            record_results=row.record_results,
            result_retention_hours=row.result_retention_hours,
        )
        for row in rows
    ]


def alias_view(row: AliasRow | AliasMoveRow) -> AliasView:
    """An alias as it is, or one step of its history."""
    return AliasView(
        model=row.model,
        alias=row.alias,
        version=row.version,
        revision=row.revision,
        moved_at=row.moved_at,
        moved_by=row.moved_by,
    )
