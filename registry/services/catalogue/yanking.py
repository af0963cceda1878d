"""Yanking a version: nothing new gets it, what has it goes on. Who did it, when and why stays until it is undone."""

from __future__ import annotations

import logging
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.contracts.api.approvals import ChangeKind
from registry.contracts.api.versions import YankAnswer
from registry.db.catalog_rows import AliasRow, VersionRow
from registry.db.engine import Changed, Database, announce
from registry.db.fleet_rows import DeploymentRow
from registry.db.rollout_rows import RolloutRow
from registry.errors import InvalidError, NotFoundError
from registry.services.access.second_person import SecondPerson
from registry.services.fleet.activities import ActivityKind, note_activity
from registry.services.queries import UseCases, exact_version, find_model, version_views
from registry.services.rollouts.store import OPEN
from registry.services.trust.image import ImageRepository
from registry.services.withdrawn import mark_good, yank_of

MAX_ROLLOUTS_NAMED = 20
log = logging.getLogger(__name__)


class Yanking(UseCases):
    """The use cases. Thread-safe."""

    def __init__(
        self, database: Database, image: ImageRepository | None = None, rule: SecondPerson | None = None
    ) -> None:
        """`image`: what signs the catalogue in the same transaction; None: nothing does."""
        super().__init__(database)
        self._rule = rule or SecondPerson(database, required=False)
        self._image = image

    def yank(self, model: str, version: str, reason: str, by: str, now: datetime) -> YankAnswer:
        """Let nothing new get it. Yanked before with another reason: the new reason stands, the answer and the event
        have the one that stood.

        Raises:
            NotFoundError: no such model or version.
            InvalidError: it is the name of an alias.
        """
        with self._database.write() as session:
            row = _exactly(session, model, version)
            replaced = yank_of(row) if row.yanked_reason != reason else None
            if row.yanked_at is None or replaced is not None:
                what = (model, version)
                before = replaced.reason if replaced is not None else ""
                note_activity(session, ActivityKind.YANKED, by, now, version=what, message=reason, before=before)
                row.yanked_at, row.yanked_by, row.yanked_reason = now, by, reason
                announce(session, Changed.ROLLOUTS)
                self._relist(session, row, now)
                log.warning("%s yanked %s %s: %s", by, model, version, reason)
            session.flush()
            return _answer(session, row).model_copy(update={"replaced": replaced})

    def undo(self, model: str, version: str, by: str, now: datetime) -> YankAnswer:
        """It may be deployed again, and counts as the newest again if it is, whatever a rollout said of it.

        Raises:
            NotFoundError: no such model or version.
            InvalidError: it is the name of an alias.
        """
        with self._rule.writing(ChangeKind.UNYANK, f"{model}@{version}", {}, now) as session:
            row = _exactly(session, model, version)
            if row.yanked_at is not None or row.taken_back_at is not None:
                what = (model, version)
                note_activity(session, ActivityKind.YANK_UNDONE, by, now, version=what, before=row.yanked_reason)
                row.yanked_at, row.yanked_by, row.yanked_reason = None, "", ""
                mark_good(session, model, version)
                self._relist(session, row, now)
                log.warning("%s lets %s %s be deployed again", by, model, version)
            session.flush()
            return _answer(session, row)

    def _relist(self, session: Session, row: VersionRow, now: datetime) -> None:
        if self._image is not None:
            session.flush()
            self._image.relist_model(session, row.model, now, [row.version])


def _exactly(session: Session, model: str, version: str) -> VersionRow:
    row = exact_version(session, model, version)
    if row is not None:
        return row
    find_model(session, model)
    alias = session.get(AliasRow, (model, version))
    if alias is not None and alias.version is not None:
        raise InvalidError(f"{version!r} is an alias of {alias.version}; name the version itself.")
    raise NotFoundError(f"Model {model!r} has no version {version!r}.")


def _answer(session: Session, row: VersionRow) -> YankAnswer:
    devices = select(func.count()).select_from(DeploymentRow).where(DeploymentRow.model == row.model)
    devices = devices.where(DeploymentRow.version == row.version)
    rollouts = select(RolloutRow.public).where(RolloutRow.model == row.model, RolloutRow.version == row.version)
    rollouts = rollouts.where(RolloutRow.state.in_(OPEN)).order_by(RolloutRow.id).limit(MAX_ROLLOUTS_NAMED)
    return YankAnswer(
        version=version_views(session, [row])[0],
        devices=session.scalar(devices) or 0,
        rollouts=tuple(session.scalars(rollouts)),
    )
