"""Forgetting the steps of devices in rollouts that ended long ago; what became of each device stays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import delete, select

from registry.core.retention import before
from registry.db.engine import Database
from registry.db.rollout_rows import ActionRow, RolloutRow, StepRow
from registry.services.queries import batches

BATCH = 5000
"""Rows that one transaction deletes."""


def forget_steps(database: Database, now: datetime, hours: int, stop: Callable[[], bool] = lambda: False) -> int:
    """Remove the steps of rollouts that ended more than `hours` ago, a batch a transaction; how many."""
    done = 0
    query = (
        select(StepRow.id)
        .join(ActionRow, ActionRow.id == StepRow.action_id)
        .join(RolloutRow, RolloutRow.id == ActionRow.rollout_id)
        .where(RolloutRow.ended_at < before(now, hours))
        .limit(BATCH)
    )
    while not stop():
        with database.write() as session:
            ids = session.scalars(query).all()
            for batch in batches(ids):
                session.execute(delete(StepRow).where(StepRow.id.in_(batch)))
        done += len(ids)
        if len(ids) < BATCH:
            break
    return done
