"""Forgetting: old health into its hour; old events, sessions, results and steps of rollouts away.

Each batch is a transaction, so that a sweep never holds the database for long, and a killed one loses nothing: the next
goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.core.retention import HourOfHealth, RetentionLimits, before, hour_of
from registry.db.catalog_rows import ModelRow
from registry.db.engine import Database
from registry.db.fleet_rows import (
    EventRow,
    HealthHourRow,
    HealthRow,
    ResultRow,
    SessionRow,
)
from registry.services.fleet.health import summary

BATCH = 1000
"""Rows that one transaction deletes."""
MAX_BATCHES = 10_000
"""Of one kind in one sweep; the next sweep does the rest."""


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

    def sweep(self, now: datetime, stop: Callable[[], bool] = lambda: False) -> Swept:
        """Remove what is over its limit. `stop` is asked between batches."""
        limits = self._limits
        return Swept(
            health=self._repeat(lambda s: self._fold_health(s, before(now, limits.health_hours)), stop),
            hours=self._repeat(lambda s: self._drop_hours(s, before(now, limits.health_hourly_hours)), stop),
            events=self._repeat(
                lambda s: self._drop(s, EventRow.id, EventRow.at < before(now, limits.event_hours)), stop
            ),
            sessions=self._repeat(lambda s: self._drop_sessions(s, before(now, limits.session_hours)), stop),
            results=self._sweep_results(now, stop),
        )

    def _repeat(self, step: Callable[[Session], int], stop: Callable[[], bool]) -> int:
        """`step`, each time in a transaction of its own, until it removes less than a batch."""
        total = 0
        for _ in range(MAX_BATCHES):
            if stop():
                break
            with self._database.write() as session:
                removed = step(session)
            total += removed
            if removed < self._batch:
                break
        return total

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

    def _drop(self, session: Session, key: InstrumentedAttribute[int], *where: object) -> int:
        ids = session.scalars(select(key).where(*where).limit(self._batch)).all()  # type: ignore[arg-type]
        session.execute(delete(key.class_).where(key.in_(ids)))
        return len(ids)

    def _drop_hours(self, session: Session, limit: datetime) -> int:
        rows = session.scalars(select(HealthHourRow).where(HealthHourRow.hour < limit).limit(self._batch)).all()
        for row in rows:
            session.delete(row)
        return len(rows)

    def _drop_sessions(self, session: Session, limit: datetime) -> int:
        rows = session.scalars(select(SessionRow).where(SessionRow.seen_at < limit).limit(self._batch)).all()
        for row in rows:
            session.delete(row)
        return len(rows)

    def _sweep_results(self, now: datetime, stop: Callable[[], bool]) -> int:
        with self._database.read() as session:
            kept = select(ModelRow.name, ModelRow.result_retention_hours)
            hours = {found.name: found.result_retention_hours for found in session.execute(kept)}
            models = session.scalars(select(ResultRow.model).distinct()).all()
            oldest_kept = select(ResultRow.id).order_by(ResultRow.id.desc()).offset(self._limits.max_results).limit(1)
            first_too_many = session.scalar(oldest_kept)
        total = 0
        for model in models:
            limit = before(now, hours[model]) if model in hours else now
            old = (ResultRow.model == model, ResultRow.at < limit)
            total += self._repeat(lambda s, old=old: self._drop(s, ResultRow.id, *old), stop)  # type: ignore[misc]
        if first_too_many is not None:
            total += self._repeat(lambda s: self._drop(s, ResultRow.id, ResultRow.id <= first_too_many), stop)
        return total
