"""Models and their aliases: listing, settings, deleting with everything below. A model is made by its first version.

An alias is a movable name for a version, moved by compare-and-set. Its history only grows. A removed alias keeps its
row, so that its revision never falls: a stale `If-Match` can never hit by accident.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.contracts.api.versions import AliasView, ModelSettings, ModelView
from registry.db.catalog_rows import AliasMoveRow, AliasRow, ModelRow, VersionRow
from registry.db.engine import Database
from registry.errors import InvalidError, NotFoundError, PreconditionError
from registry.services.catalogue.versions import delete_rows
from registry.services.queries import UseCases, alias_view, exact_version, find_model, found, model_views
from registry.services.trust.image import ImageRepository
from registry.services.withdrawn import require_not_yanked

LAST_REVISION = (1 << 31) - 1
"""What the column can hold: PostgreSQL refuses to compare it with more."""


_SETTINGS = {"record_results", "result_retention_hours"}


class Models(UseCases):
    """The use cases of models. Thread-safe."""

    def __init__(self, database: Database, image: ImageRepository | None = None) -> None:
        """`image`: what signs the catalogue in the same transaction; None: nothing does."""
        super().__init__(database)
        self._image = image

    def page(self, after: str, limit: int) -> list[ModelView]:
        """Up to `limit` models by name, after the name `after`."""
        with self._database.read() as session:
            query = select(ModelRow).where(ModelRow.name > after).order_by(ModelRow.name).limit(limit)
            return model_views(session, session.scalars(query).all())

    def get(self, model: str) -> ModelView:
        """One model. Raises NotFoundError."""
        with self._database.read() as session:
            return model_views(session, [find_model(session, model)])[0]

    def change(self, model: str, settings: ModelSettings) -> ModelView:
        """Change the settings that are given. Raises NotFoundError."""
        with self._database.write() as session:
            row = find_model(session, model)
            for name, value in settings.model_dump(include=_SETTINGS, exclude_none=True).items():
                setattr(row, name, value)
            session.flush()
            return model_views(session, [row])[0]

    def delete(self, model: str, by: str, now: datetime) -> None:
        """Remove a model with its versions; its aliases end, their history stays.

        Raises:
            NotFoundError: no such model.
            InUseError: a device is assigned to one of its versions or serves it.
        """
        with self._database.write() as session:
            row = find_model(session, model)
            for alias in session.scalars(select(AliasRow).where(AliasRow.model == model)):
                if alias.version is not None:
                    point(session, alias, None, by, now)
            session.flush()
            versions = session.scalars(select(VersionRow).where(VersionRow.model == model)).all()
            delete_rows(session, list(versions), now)
            session.delete(row)
            if self._image is not None:
                session.flush()
                self._image.relist_model(session, model, now, [version.version for version in versions])


class Aliases(UseCases):
    """The use cases of aliases. Thread-safe."""

    def page(self, model: str, after: str, limit: int) -> list[AliasView]:
        """Up to `limit` living aliases by name, after the name `after`. Raises NotFoundError."""
        living = select(AliasRow).where(AliasRow.model == model, AliasRow.version.is_not(None), AliasRow.alias > after)
        with self._database.read() as session:
            find_model(session, model)
            return [alias_view(row) for row in session.scalars(living.order_by(AliasRow.alias).limit(limit))]

    def get(self, model: str, alias: str) -> AliasView:
        """Where it points. Raises NotFoundError."""
        with self._database.read() as session:
            return alias_view(_find(session, model, alias))

    def history(self, model: str, alias: str, before: int, limit: int) -> list[AliasView]:
        """Up to `limit` moves, newest first, with a revision below `before`. Raises NotFoundError."""
        of_alias = (AliasMoveRow.model == model, AliasMoveRow.alias == alias)
        moves = select(AliasMoveRow).where(*of_alias, AliasMoveRow.revision <= min(before - 1, LAST_REVISION))
        with self._database.read() as session:
            found(session.get(AliasRow, (model, alias)), f"Model {model!r} never had an alias {alias!r}.")
            return [
                alias_view(row) for row in session.scalars(moves.order_by(AliasMoveRow.revision.desc()).limit(limit))
            ]

    def move(self, model: str, alias: str, version: str, *, seen: int | None, by: str, now: datetime) -> AliasView:
        """Point the alias to a version, if nobody moved it since.

        Args:
            model: Its model.
            alias: Its name.
            version: The exact name of a version.
            seen: The revision that the caller read; None: it must not exist yet.
            by: Who moves it, for the history.
            now: The time, for the history.

        Raises:
            NotFoundError: no such model or version.
            InvalidError: a version has the alias's name.
            PreconditionError: it was moved meanwhile.
            YankedError: the version was yanked, and the alias does not point to it.
        """
        with self._database.write() as session:
            find_model(session, model)
            target = found(exact_version(session, model, version), f"Model {model!r} has no version {version!r}.")
            if exact_version(session, model, alias) is not None:
                raise InvalidError(f"{alias!r} is a version of {model!r}; an alias needs another name.")
            row = session.get(AliasRow, (model, alias))
            if row is not None and row.version == version and seen is not None and seen == row.revision - 1:
                return alias_view(row)  # the same request again, whose answer was lost
            _require_revision(row, alias, seen)
            if row is None or row.version != version:
                require_not_yanked(target)
            if row is None:
                row = AliasRow(model=model, alias=alias, revision=0)
                session.add(row)
            if row.version != version:
                point(session, row, version, by, now)
            return alias_view(row)

    def remove(self, model: str, alias: str, *, seen: int | None, by: str, now: datetime) -> None:
        """End the alias; its history stays. Raises NotFoundError, PreconditionError; `seen` None: whatever it is."""
        with self._database.write() as session:
            row = _find(session, model, alias)
            _require_revision(row, alias, row.revision if seen is None else seen)
            point(session, row, None, by, now)


def point(session: Session, row: AliasRow, version: str | None, by: str, now: datetime) -> None:
    """One move, with its entry in the history, within the caller's transaction."""
    row.version, row.revision, row.moved_at, row.moved_by = version, row.revision + 1, now, by
    session.add(
        AliasMoveRow(
            model=row.model, alias=row.alias, version=version, revision=row.revision, moved_at=now, moved_by=by
        )
    )
    session.flush()


def _find(session: Session, model: str, alias: str) -> AliasRow:
    row = session.get(AliasRow, (model, alias))
    if row is None or row.version is None:
        raise NotFoundError(f"Model {model!r} has no alias {alias!r}.")
    return row


def _require_revision(row: AliasRow | None, alias: str, seen: int | None) -> None:
    lives = row is not None and row.version is not None
    if seen is None and lives:
        raise PreconditionError(f"Alias {alias!r} exists; read it and move it with If-Match.")
    if seen is not None and (row is None or not lives or row.revision != seen):
        now = f"is at revision {row.revision}" if row is not None and lives else "does not exist"
        raise PreconditionError(f"Alias {alias!r} {now}, not at {seen}: somebody else moved it. Read it again.")
