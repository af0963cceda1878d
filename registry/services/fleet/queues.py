"""What waits in the database: how much, and since when the first of it. Every query uses an index on what waits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.contracts.rollout.states import RolloutState
from registry.db.catalog_rows import UploadRow
from registry.db.fleet_rows import DesiredRow, JobRow
from registry.db.rollout_rows import FleetLogRow, RolloutRow, WebhookRow


@dataclass(frozen=True)
class Waiting:
    """One queue."""

    length: int
    since: datetime | None = None
    """Of the first; None: nothing waits, or that is not written down."""


def queues(session: Session) -> dict[str, Waiting]:
    """By name, as the metric `queue_length` says."""
    uploads = session.execute(select(func.count(), func.min(UploadRow.created_at))).one()
    jobs = select(func.count(), func.min(JobRow.created_at)).where(JobRow.over.is_(False))
    unpublished = select(func.count()).select_from(DesiredRow).where(DesiredRow.published.is_(False))
    return {
        "uploads": Waiting(*uploads),
        "jobs": Waiting(*session.execute(jobs).one()),
        "documents": Waiting(session.scalar(unpublished) or 0),
        "webhooks": _webhooks(session),
        "plans": _rollouts(session, RolloutState.PLANNING),
        "approvals": _rollouts(session, RolloutState.AWAITING_APPROVAL),
    }


def _rollouts(session: Session, state: RolloutState) -> Waiting:
    query = select(func.count(), func.min(RolloutRow.since)).where(RolloutRow.state == state.value)
    return Waiting(*session.execute(query).one())


def _webhooks(session: Session) -> Waiting:
    """Events that the slowest of the webhooks that are switched on has yet to get or to pass over."""
    behind = session.scalar(select(func.min(WebhookRow.cursor)).where(WebhookRow.disabled_at.is_(None)))
    if behind is None:
        return Waiting(0)
    query = select(func.count(), func.min(FleetLogRow.at)).where(FleetLogRow.id > behind)
    return Waiting(*session.execute(query).one())
