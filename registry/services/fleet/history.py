"""What devices measured and answered: health reports into history and counts, and recorded results.

Each is stored within the caller's transaction, and read back.

A session's sequence number only rises: a health report that is not above the last one was taken before and is dropped,
so that a repeated delivery neither stores nor counts twice. Results are kept only for models whose settings say so,
bounded in size, age and number.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite, isnan
from typing import Any

from pydantic_core import from_json
from sqlalchemy import Row, insert, inspect, select, tuple_
from sqlalchemy.orm import Session

from registry.contracts.api.devices import CountView, HealthHour, ResultView
from registry.contracts.device.messages import Event, Health
from registry.contracts.tensors import CONTENT_JSON
from registry.contracts.wire import Name
from registry.core.intake import DeviceMessage, Recorded, Result
from registry.core.retention import HourOfHealth, Increase, Totals, add_errors, advance
from registry.db.base import put_rows
from registry.db.catalog_rows import ModelRow
from registry.db.fleet_rows import CountRow, DeviceRow, EventRow, HealthHourRow, HealthRow, ResultRow, SessionRow
from registry.services.fleet.desired import find_device
from registry.services.queries import UseCases, given

Report = tuple[int, DeviceMessage, Health]
"""The device's id, and its report twice: as it came, and as what it is."""

# Tables, not mapped classes: the ORM would take half of the time of a batch.
_HEALTH: Any = inspect(HealthRow).local_table
_SESSIONS: Any = inspect(SessionRow).local_table
_COUNTS: Any = inspect(CountRow).local_table


def take_health(session: Session, reports: Sequence[Report]) -> tuple[list[Report], list[Increase]]:
    """Store reports and count what they add.

    Returns:
        Those that were new, and what they added.
    """
    if not reports:
        return [], []
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
    return fresh, [increase for _, _, increase in increases]


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
        seen = {model: Totals.from_json(total) for model, total in totals.items()}
        known[device_id, session_id] = _Known(seq, seen)
    return known


def _keep(session: Session, sessions: Mapping[tuple[int, str], _Known]) -> None:
    rows = [
        {
            "device_id": device_id,
            "session_id": session_id,
            "seq": known.seq,
            "totals": {model: totals.to_json() for model, totals in known.totals.items()},
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
    query = select(*columns).where(
        _COUNTS.c.device_id.in_({device_id for device_id, _, _ in increases}),
        _COUNTS.c.model.in_({increase.model for _, _, increase in increases}),
    )
    there = {(device, model, version): (n, errors) for device, model, version, n, errors in session.execute(query)}
    changed: dict[tuple[int, str, str], dict[str, Any]] = {}
    for device_id, at, increase in increases:
        key = (device_id, increase.model, increase.version)
        if key not in changed:
            requests, errors = there.get(key, (0, {}))
            changed[key] = {
                "device_id": device_id, "model": increase.model, "version": increase.version,
                "requests": requests, "errors": errors, "first_at": at,
            }  # fmt: skip
        row = changed[key]
        row["requests"] += increase.requests
        row["errors"] = add_errors(row["errors"], increase.errors)
        row["last_at"] = at
    put_rows(session, CountRow, list(changed.values()), ("device_id", "model", "version"), kept=("first_at",))


def summary(rows: Sequence[HealthRow]) -> HourOfHealth:
    """What stays of these reports, all of one hour."""
    hour = HourOfHealth()
    for row in rows:
        hour.add(Health.model_validate_json(row.document), [Increase(*fields) for fields in row.increases])
    return hour


class HealthHistory(UseCases):
    """Reads health, events and counts."""

    def page(self, device: str, before: int, limit: int) -> list[tuple[int, Health]]:
        """Up to `limit` reports of a device below the id `before`, newest first, with their ids. NotFoundError."""
        said = self._said(HealthRow, device, before, limit)
        return [(number, Health.model_validate_json(text)) for number, text in said]

    def events(self, device: str, before: int, limit: int) -> list[tuple[int, Event]]:
        """Up to `limit` events of a device below the id `before`, newest first, with their ids. NotFoundError."""
        said = self._said(EventRow, device, before, limit)
        return [(number, Event.model_validate_json(text)) for number, text in said]

    def _said(
        self, row: type[HealthRow] | type[EventRow], device: str, before: int, limit: int
    ) -> Sequence[Row[int, str]]:
        with self._database.read() as session:
            query = select(row.id, row.document).where(row.device_id == find_device(session, device).id)
            return session.execute(query.where(row.id < before).order_by(row.id.desc()).limit(limit)).all()

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


def record(session: Session, results: Sequence[tuple[int, datetime, Recorded]]) -> int:
    """Store results (device id, when, what) of recorded models within the caller's transaction; how many were."""
    if not results:
        return 0
    names = {recorded.model for _, _, recorded in results}
    query = select(ModelRow.name).where(ModelRow.name.in_(names), ModelRow.record_results.is_(True))
    recorded_models = set(session.scalars(query))
    rows = [_result_row(device_id, at, r) for device_id, at, r in results if r.model in recorded_models]
    session.add_all(rows)
    return len(rows)


def _result_row(device_id: int, at: datetime, recorded: Recorded) -> ResultRow:
    result: Result = recorded.result
    return ResultRow(
        device_id=device_id,
        model=recorded.model,
        version=result.version,
        at=at,
        request_id=result.request_id,
        code=result.code,
        content_type=result.content_type,
        body=result.body,
        size=result.size,
        header_length=result.header_length,
        note=result.note,
        rollout=result.rollout or None,
    )


class Results(UseCases):
    """Reads recorded results."""

    def page(self, device: Name | None, model: Name | None, before: int, limit: int) -> list[ResultView]:
        """Up to `limit` results below the id `before`, newest first."""
        query = select(DeviceRow.name, ResultRow).join(ResultRow, ResultRow.device_id == DeviceRow.id)
        query = query.where(ResultRow.id < before, *given((DeviceRow.name, device), (ResultRow.model, model)))
        with self._database.read() as session:
            rows = session.execute(query.order_by(ResultRow.id.desc()).limit(limit)).all()
        return [_result_view(name, row) for name, row in rows]


def _result_view(device: str, row: ResultRow) -> ResultView:
    return ResultView(
        id=row.id,
        device=device,
        model=row.model,
        version=row.version,
        at=row.at,
        request_id=row.request_id,
        code=row.code,
        content_type=row.content_type,
        body=_body(row),
        size=row.size,
        header_length=row.header_length,
        note=row.note,
        rollout=row.rollout,
    )


def _body(row: ResultRow) -> Any:
    """JSON as JSON; what is not JSON after all, as base64 like a binary result."""
    if row.body is None:
        return None
    if row.content_type == CONTENT_JSON and row.header_length is None:
        with suppress(ValueError):
            return _in_json(from_json(row.body))  # refuses nesting deeper than it can write again
    return base64.b64encode(row.body).decode()


def _in_json(value: Any) -> Any:
    """The value with `"NaN"`, `"Infinity"` and `"-Infinity"` for the tokens that devices write and JSON has not."""
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return [_in_json(item) for item in value]
    if isinstance(value, dict):
        return {name: _in_json(item) for name, item in value.items()}
    return value
