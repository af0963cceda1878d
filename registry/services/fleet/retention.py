"""Forgetting: old health into its hour; old events, sessions, results and steps of rollouts away.

Each batch is a transaction, so that a sweep never holds the database for long, and a killed one loses nothing: the next
goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, tuple_
from sqlalchemy.orm import Session

from registry.core.retention import HourOfHealth, RetentionLimits, before, hour_of
from registry.db.catalog_rows import ModelRow
from registry.db.engine import Database
from registry.db.fleet_rows import EventRow, HealthHourRow, HealthRow, ResultRow, SessionRow
from registry.db.rollout_rows import ActionRow, RolloutRow, StepRow
from registry.services.fleet.history import summary

BATCH = 1000
"""Rows that one transaction deletes."""
MAX_BATCHES = 10_000
"""Of one kind in one sweep; the next sweep does the rest."""
BATCH_OF_STEPS = 5000
Stopping = Callable[[], bool]


def forget(database: Database, keys: Any, stop: Stopping = lambda: False, batch: int = BATCH) -> int:
    """Delete the rows whose primary keys the query selects, a batch a transaction; how many."""
    columns = keys.selected_columns

    def step(session: Session) -> int:
        found = session.execute(keys.limit(batch)).all()
        session.execute(delete(columns[0].table).where(tuple_(*columns).in_(found)))
        return len(found)

    return _repeat(database, step, stop, batch)


def _repeat(database: Database, step: Callable[[Session], int], stop: Stopping, batch: int) -> int:
    """`step`, each time in a transaction of its own, until it removes less than a batch."""
    total = 0
    for _ in range(MAX_BATCHES):
        if stop():
            break
        with database.write() as session:
            removed = step(session)
        total += removed
        if removed < batch:
            break
    return total


def forget_steps(database: Database, now: datetime, hours: int, stop: Stopping = lambda: False) -> int:
    """Remove the steps of devices in rollouts that ended more than `hours` ago; how many. What became of each device
    stays."""
    steps = (
        select(StepRow.id)
        .join(ActionRow, ActionRow.id == StepRow.action_id)
        .join(RolloutRow, RolloutRow.id == ActionRow.rollout_id)
        .where(RolloutRow.ended_at < before(now, hours))
    )
    return forget(database, steps, stop, BATCH_OF_STEPS)


@dataclass(frozen=True)
class Swept:
    """Rows that one sweep removed."""

    health: int
    hours: int
    events: int
    sessions: int
    results: int


class RetentionSweep:
    """The sweep."""

    def __init__(self, database: Database, limits: RetentionLimits, batch: int = BATCH) -> None:
        self._database = database
        self._limits = limits
        self._batch = batch

    def sweep(self, now: datetime, stop: Stopping = lambda: False) -> Swept:
        """Remove what is over its limit. `stop` is asked between batches."""
        limits = self._limits
        hours = select(HealthHourRow.device_id, HealthHourRow.hour)
        sessions = select(SessionRow.device_id, SessionRow.session_id)
        return Swept(
            health=_repeat(
                self._database, lambda s: self._fold_health(s, before(now, limits.health_hours)), stop, self._batch
            ),
            hours=self._forget(hours.where(HealthHourRow.hour < before(now, limits.health_hourly_hours)), stop),
            events=self._forget(select(EventRow.id).where(EventRow.at < before(now, limits.event_hours)), stop),
            sessions=self._forget(sessions.where(SessionRow.seen_at < before(now, limits.session_hours)), stop),
            results=self._sweep_results(now, stop),
        )

    def _forget(self, keys: Any, stop: Stopping) -> int:
        return forget(self._database, keys, stop, self._batch)

    def _fold_health(self, session: Session, limit: datetime) -> int:
        query = select(HealthRow).where(HealthRow.at < limit).order_by(HealthRow.at).limit(self._batch)
        rows = session.scalars(query).all()
        hours: dict[tuple[int, datetime], list[HealthRow]] = {}
        for row in rows:
            hours.setdefault((row.device_id, hour_of(row.at)), []).append(row)
        for (device_id, hour), reports in hours.items():
            folded = summary(reports)
            kept = session.get(HealthHourRow, (device_id, hour))
            if kept is None:
                session.add(HealthHourRow(device_id=device_id, hour=hour, summary=folded.to_json()))
            else:
                folded.merge(HourOfHealth.from_json(kept.summary))
                kept.summary = folded.to_json()
        session.execute(delete(HealthRow).where(HealthRow.id.in_([row.id for row in rows])))
        return len(rows)

    def _sweep_results(self, now: datetime, stop: Stopping) -> int:
        with self._database.read() as session:
            kept = select(ModelRow.name, ModelRow.result_retention_hours)
            hours = {found.name: found.result_retention_hours for found in session.execute(kept)}
            models = session.scalars(select(ResultRow.model).distinct()).all()
            oldest_kept = select(ResultRow.id).order_by(ResultRow.id.desc()).offset(self._limits.max_results).limit(1)
            first_too_many = session.scalar(oldest_kept)
        total = 0
        for model in models:
            limit = before(now, hours[model]) if model in hours else now
            total += self._forget(select(ResultRow.id).where(ResultRow.model == model, ResultRow.at < limit), stop)
        if first_too_many is not None:
            total += self._forget(select(ResultRow.id).where(ResultRow.id <= first_too_many), stop)
        return total
