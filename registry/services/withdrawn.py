"""Versions that do not go out any more: yanked by a person, or taken back by a rollout.

| | new deployments, rollouts, aliases | counts as the newest | ends |
|---|---|---|---|
| yanked | refused | no | by the undo of a person |
| taken back | allowed | no | when a later rollout of it ends well, or by that undo |

Devices that serve a version go on in either case, and return to it where it is their last good one. Everything here
works within the caller's transaction.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from registry.contracts.api.versions import TakenBack, Yank
from registry.db.catalog_rows import VersionRow
from registry.errors import YankedError

COUNTS_AS_NEWEST: tuple[ColumnElement[bool], ...] = (
    VersionRow.yanked_at.is_(None),
    VersionRow.taken_back_at.is_(None),
)
"""Of a version."""


def yank_of(row: VersionRow) -> Yank | None:
    """Who yanked it, when and why."""
    return Yank(at=row.yanked_at, by=row.yanked_by, reason=row.yanked_reason) if row.yanked_at is not None else None


def taken_back_of(row: VersionRow) -> TakenBack | None:
    """Which rollout took it back, when and why."""
    if row.taken_back_at is None:
        return None
    return TakenBack(
        at=row.taken_back_at, rollout=row.taken_back_by, code=row.taken_back_code, text=row.taken_back_text
    )


def yanked_text(row: VersionRow) -> str:
    """As a sentence without its end; empty: it is not yanked."""
    if row.yanked_at is None:
        return ""
    at = row.yanked_at.strftime("%Y-%m-%d %H:%M UTC")
    return f"{row.model} {row.version} was yanked by {row.yanked_by or 'anonymous'} at {at}: {row.yanked_reason}"


def require_not_yanked(row: VersionRow) -> None:
    """Before something new gets it. Raises YankedError."""
    if text := yanked_text(row):
        raise YankedError(f"{text}. Nothing new gets it; devices that serve it go on.")


def yanked_manifest(session: Session, model: str, version: str) -> str:
    """`yanked_text` of the version of that name; empty also where it is not there any more."""
    query = select(VersionRow).where(VersionRow.model == model, VersionRow.version == version)
    row = session.scalar(query.where(VersionRow.yanked_at.is_not(None)))
    return yanked_text(row) if row is not None else ""


def mark_taken_back(session: Session, model: str, version: str, said: TakenBack) -> None:
    """A rollout takes it back from now on."""
    _put(session, model, version, said.at, said.rollout, said.code, said.text[:2048])


def mark_good(session: Session, model: str, version: str) -> None:
    """A rollout of it ended well, or a person says so: what happened before counts no more."""
    _put(session, model, version, None, "", "", "")


def _put(  # noqa: PLR0917 - the columns in their order
    session: Session, model: str, version: str, at: datetime | None, rollout: str, code: str, text: str
) -> None:
    session.execute(
        update(VersionRow)
        .where(VersionRow.model == model, VersionRow.version == version)
        .values(taken_back_at=at, taken_back_by=rollout, taken_back_code=code, taken_back_text=text)
        .execution_options(synchronize_session="fetch")
    )
