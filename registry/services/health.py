"""Health reports into history and counts, within the caller's transaction; and reading them back.

A session's sequence number only rises: a report that is not above the last one was taken before and is dropped,
so that a repeated delivery neither stores nor counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from registry.contracts.api import CountView, HealthHour
from registry.contracts.messages import Health
from registry.core.counts import Increase, Totals, add_errors, advance
from registry.core.intake import Intake
from registry.core.retention import HourOfHealth
from registry.db.engine import Database
from registry.db.fleet_rows import CountRow, DeviceRow, HealthHourRow, HealthRow, SessionRow
from registry.services.desired import find_device

Report = tuple[int, Intake, Health]
"""The device's id, and its report twice: as it came, and as what it is."""


def take_health(session: Session, reports: Sequence[Report]) -> list[Report]:
    """Store reports and count what they add.

    Returns:
        Those that were new.
    """
    sessions = _sessions(session, reports)
    fresh: list[Report] = []
    rows: list[dict[str, Any]] = []
    increases: list[tuple[int, datetime, Increase]] = []
    for report in reports:
        device_id, intake, health = report
        row = sessions[device_id, health.session_id]
        if health.seq <= row.seq:
            continue
        seen = {model: Totals(*total) for model, total in row.totals.items()}
        added, totals = advance(seen, health.models)
        row.seq, row.seen_at = health.seq, intake.at
        row.totals = {model: [t.requests, dict(t.errors), t.not_finite] for model, t in totals.items()}
        counted = [[i.model, i.version, i.requests, dict(i.errors), i.not_finite] for i in added]
        rows.append({"device_id": device_id, "at": intake.at, "document": intake.text, "increases": counted})
        increases.extend((device_id, intake.at, increase) for increase in added)
        fresh.append(report)
    if rows:
        session.execute(insert(HealthRow), rows)
    _count(session, increases)
    return fresh


def _sessions(session: Session, reports: Sequence[Report]) -> dict[tuple[int, str], SessionRow]:
    """The rows of all sessions that report, new ones with a sequence number below any."""
    query = select(SessionRow).where(
        SessionRow.device_id.in_({device_id for device_id, _, _ in reports}),
        SessionRow.session_id.in_({health.session_id for _, _, health in reports}),
    )
    rows = {(row.device_id, row.session_id): row for row in session.scalars(query)}
    for device_id, intake, health in reports:
        if (device_id, health.session_id) not in rows:
            row = SessionRow(device_id=device_id, session_id=health.session_id, seq=-1, totals={}, seen_at=intake.at)
            session.add(row)
            rows[device_id, health.session_id] = row
    return rows


def _count(session: Session, increases: Sequence[tuple[int, datetime, Increase]]) -> None:
    if not increases:
        return
    query = select(CountRow).where(
        CountRow.device_id.in_({device_id for device_id, _, _ in increases}),
        CountRow.model.in_({increase.model for _, _, increase in increases}),
    )
    rows = {(row.device_id, row.model, row.version): row for row in session.scalars(query)}
    for device_id, at, increase in increases:
        key = (device_id, increase.model, increase.version)
        row = rows.get(key)
        if row is None:
            row = CountRow(device_id=device_id, model=increase.model, version=increase.version, first_at=at, last_at=at)
            row.requests, row.errors = 0, {}
            session.add(row)
            rows[key] = row
        row.requests += increase.requests
        row.errors = add_errors(row.errors, increase.errors)
        row.last_at = at


def summary(rows: Sequence[HealthRow]) -> HourOfHealth:
    """What stays of these reports, all of one hour."""
    hour = HourOfHealth()
    for row in rows:
        increases = [Increase(*fields) for fields in row.increases]
        hour.add(Health.model_validate_json(row.document), increases)
    return hour


class HealthHistory:
    """Reads health and counts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, device: str, before: int, limit: int) -> list[tuple[int, Health]]:
        """Up to `limit` reports of a device below the id `before`, newest first, with their ids. NotFoundError."""
        with self._database.read() as session:
            row = find_device(session, device)
            query = select(HealthRow).where(HealthRow.device_id == row.id, HealthRow.id < before)
            rows = session.scalars(query.order_by(HealthRow.id.desc()).limit(limit)).all()
        return [(row.id, Health.model_validate_json(row.document)) for row in rows]

    def hours(self, device: str, before: datetime, limit: int) -> list[HealthHour]:
        """Up to `limit` hours of a device that began before `before`, newest first. NotFoundError."""
        with self._database.read() as session:
            row = find_device(session, device)
            query = select(HealthHourRow).where(HealthHourRow.device_id == row.id, HealthHourRow.hour < before)
            rows = session.scalars(query.order_by(HealthHourRow.hour.desc()).limit(limit)).all()
        return [_hour_view(row) for row in rows]

    def counts(self, device: str | None, model: str | None, after: tuple[str, str, str], limit: int) -> list[CountView]:
        """Up to `limit` counts ordered by device, model, version, after that key."""
        key = (DeviceRow.name, CountRow.model, CountRow.version)
        query = select(DeviceRow.name, CountRow).join(CountRow, CountRow.device_id == DeviceRow.id)
        if device is not None:
            query = query.where(DeviceRow.name == device)
        if model is not None:
            query = query.where(CountRow.model == model)
        name, of_model, version = after
        query = query.where(
            (key[0] > name) | ((key[0] == name) & ((key[1] > of_model) | ((key[1] == of_model) & (key[2] > version))))
        )
        with self._database.read() as session:
            rows = session.execute(query.order_by(*key).limit(limit)).all()
        return [
            CountView(
                device=name,
                model=row.model,
                version=row.version,
                requests=row.requests,
                errors=row.errors,
                first_at=row.first_at,
                last_at=row.last_at,
            )
            for name, row in rows
        ]


def _hour_view(row: HealthHourRow) -> HealthHour:
    hour = HourOfHealth.from_json(row.summary)
    return HealthHour(
        hour=row.hour,
        samples=hour.samples,
        cpu_fraction_mean=hour.mean("cpu_fraction"),
        peaks=hour.peaks,
        troughs=hour.troughs,
        models=hour.models,
    )
