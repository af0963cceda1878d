"""Models: listing, settings, deleting with everything below. A model is made by its first version."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from registry.contracts.api.versions import ModelSettings, ModelView
from registry.db.catalog_rows import AliasRow, ModelRow, VersionRow
from registry.db.engine import Database
from registry.services.catalogue.aliases import point
from registry.services.catalogue.versions import delete_rows
from registry.services.views import find_model, model_views


class Models:
    """The use cases of models. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
            if settings.record_results is not None:
                row.record_results = settings.record_results
            if settings.result_retention_hours is not None:
                row.result_retention_hours = settings.result_retention_hours
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
