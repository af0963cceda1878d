"""Health reports into history and counts, within the caller's transaction; and reading them back.

A session's sequence number only rises: a report that is not above the last one was taken before and is dropped,
so that a repeated delivery neither stores nor counts twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import insert, inspect, select, tuple_
from sqlalchemy.orm import Session

from registry.contracts.api.devices import CountView, HealthHour
from registry.contracts.device.messages import Health
from registry.core.intake import DeviceMessage
from registry.core.retention import HourOfHealth, Increase, Totals, add_errors, advance
from registry.db.base import put_rows
from registry.db.fleet_rows import CountRow, DeviceRow, HealthHourRow, HealthRow, SessionRow
from registry.services.fleet.desired import find_device
from registry.services.queries import UseCases, given

Report = tuple[int, DeviceMessage, Health]
"""The device's id, and its report twice: as it came, and as what it is."""

# Tables, not mapped classes: the ORM would take half of the time of a batch.
_HEALTH: Any = inspect(HealthRow).local_table
_SESSIONS: Any = inspect(SessionRow).local_table
_COUNTS: Any = inspect(CountRow).local_table


def take_health(session: Session, reports: Sequence[Report]) -> list[Report]:
    """Store reports and count what they add.

    Returns:
        Those that were new.
    """
    if not reports:
        return []
    sessions = _sessions(session, reports)
    fresh: list[Report] = []
    rows: list[dict[str, Any]] = []
    increases: list[tuple[int, datetime, Increase]] = []
    for report in reports:
        device_id, intake, health = report
        known = sessions[device_id, health.session_id]
        if health.seq <= known.seq:
            continue
        added, known.totals = advance(known.totals, health.models)
        known.seq, known.seen_at = health.seq, intake.at
        counted = [[i.model, i.version, i.requests, dict(i.errors), i.not_finite] for i in added]
        rows.append({"device_id": device_id, "at": intake.at, "document": intake.text, "increases": counted})
        increases.extend((device_id, intake.at, increase) for increase in added)
        fresh.append(report)
    if rows:
        session.execute(insert(_HEALTH), rows)
    _keep(session, sessions)
    _count(session, increases)
    return fresh


@dataclass
class _Known:
    """A session's totals; `seen_at` None: nothing came that is new."""

    seq: int = -1
    """Below any, for a session that was never heard."""
    totals: dict[str, Totals] = field(default_factory=dict)
    seen_at: datetime | None = None


def _sessions(session: Session, reports: Sequence[Report]) -> dict[tuple[int, str], _Known]:
    """All sessions that report."""
    pairs = sorted({(device_id, health.session_id) for device_id, _, health in reports})
    columns = (_SESSIONS.c.device_id, _SESSIONS.c.session_id, _SESSIONS.c.seq, _SESSIONS.c.totals)
    known: dict[tuple[int, str], _Known] = {pair: _Known() for pair in pairs}
    # Pairs: two lists, one of devices and one of sessions, would make the database try each with each.
    which = tuple_(_SESSIONS.c.device_id, _SESSIONS.c.session_id).in_(pairs)
    for device_id, session_id, seq, totals in session.execute(select(*columns).where(which)):
        seen = {model: Totals(*total) for model, total in totals.items()}
        known[device_id, session_id] = _Known(seq, seen)
    return known


def _keep(session: Session, sessions: Mapping[tuple[int, str], _Known]) -> None:
    rows = [
        {
            "device_id": device_id,
            "session_id": session_id,
            "seq": known.seq,
            "totals": {model: [t.requests, dict(t.errors), t.not_finite] for model, t in known.totals.items()},
            "seen_at": known.seen_at,
        }
        for (device_id, session_id), known in sessions.items()
        if known.seen_at is not None
    ]
    put_rows(session, SessionRow, rows, ("device_id", "session_id"))


def _count(session: Session, increases: Sequence[tuple[int, datetime, Increase]]) -> None:
    if not increases:
        return
    columns = (_COUNTS.c.device_id, _COUNTS.c.model, _COUNTS.c.version, _COUNTS.c.requests, _COUNTS.c.errors)
    query = select(*columns, _COUNTS.c.first_at).where(
        _COUNTS.c.device_id.in_({device_id for device_id, _, _ in increases}),
        _COUNTS.c.model.in_({increase.model for _, _, increase in increases}),
    )
    there = {(found.device_id, found.model, found.version): found for found in session.execute(query)}
    changed: dict[tuple[int, str, str], dict[str, Any]] = {}
    for device_id, at, increase in increases:
        key = (device_id, increase.model, increase.version)
        if key not in changed:
            before = there.get(key)
            changed[key] = {
                "device_id": device_id, "model": increase.model, "version": increase.version,
                "requests": before.requests if before else 0, "errors": before.errors if before else {},
                "first_at": before.first_at if before else at,
            }  # fmt: skip
        row = changed[key]
        row["requests"] += increase.requests
        row["errors"] = add_errors(row["errors"], increase.errors)
        row["last_at"] = at
    put_rows(session, CountRow, list(changed.values()), ("device_id", "model", "version"))


def summary(rows: Sequence[HealthRow]) -> HourOfHealth:
    """What stays of these reports, all of one hour."""
    hour = HourOfHealth()
    for row in rows:
        increases = [Increase(*fields) for fields in row.increases]
        hour.add(Health.model_validate_json(row.document), increases)
    return hour


class HealthHistory(UseCases):
    """Reads health and counts."""

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
        query = query.where(*given((DeviceRow.name, device), (CountRow.model, model)))
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
