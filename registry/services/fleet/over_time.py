"""Writes down the fleet over time: sums of what devices answered, samples of how many are there.

The intake of reports is not slowed: every few seconds the difference of the totals that Prometheus gets, too, is added
to the sum of this minute, and the sum is written over what was written of it before. A write that is repeated, also
one whose outcome is not known, therefore counts once; a process that is killed loses what came since its last write.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from sqlalchemy import delete, func, insert, inspect, literal, select

from registry.contracts.api.over_time import MAX_SERIES, Adoption, VersionAdoption
from registry.core.over_time import FINEST_S, FOLDS, SAMPLE_S, start_of
from registry.core.retention import RetentionLimits
from registry.db.base import put_rows
from registry.db.engine import Database
from registry.db.over_time_rows import BUCKETS, AnswerSumRow, ConnectionSampleRow, VersionSampleRow
from registry.services.fleet.fleet_totals import FleetTotals, VersionTotals
from registry.services.fleet.summary import FleetFigures
from registry.services.queries import find_model

_SUMS: Any = inspect(AnswerSumRow).local_table
_SAMPLES: Any = inspect(ConnectionSampleRow).local_table
_VERSIONS: Any = inspect(VersionSampleRow).local_table
_KEYS = ("step", "start", "model", "version", "code", "part")
Stopping = Callable[[], bool]
Served = tuple[str, str]
"""Model and version."""


@dataclass
class _Minute:
    """The sum that is being made. `unwritten`: something of it is not in the database."""

    start: int = -1
    part: str = ""
    sums: dict[Served, VersionTotals] = field(default_factory=dict)
    unwritten: bool = False


class AnswerSums:
    """Thread-safe."""

    def __init__(self, database: Database, totals: FleetTotals, limits: RetentionLimits) -> None:
        self._database = database
        self._totals = totals
        self._kept = timedelta(hours=limits.health_hourly_hours)
        self._lock = threading.Lock()
        self._seen: dict[Served, VersionTotals] = {}
        self._minute = _Minute()

    def record(self, now: datetime) -> None:
        """Add what came since the last call, and write it. A sum that could not be written stays the one of this minute
        until it is. Raises TemporaryError."""
        with self._lock:
            start = start_of(now, FINEST_S)
            if start != self._minute.start and not self._minute.unwritten:
                self._minute = _Minute(start, secrets.token_hex(8))
            self._add()
            if self._minute.unwritten:
                with self._database.write() as session:
                    put_rows(session, AnswerSumRow, _rows(self._minute), _KEYS)
                self._minute.unwritten = False

    def _add(self) -> None:
        found = self._totals.by_version()
        for served, totals in found.items():
            new = totals.since(self._seen.get(served))
            if new is not None:
                self._minute.sums.setdefault(served, VersionTotals()).add(new)
                self._minute.unwritten = True
        self._seen = found

    def sweep(self, now: datetime, stop: Stopping = lambda: False) -> None:
        """Make coarser sums of old ones, and forget the oldest. Raises TemporaryError."""
        for step, coarser, age in FOLDS:
            limit = start_of(now - age, coarser)
            while not stop() and self._fold(step, coarser, limit):
                pass
        oldest = start_of(now - self._kept, 3600)
        with self._database.write() as session:
            session.execute(delete(_SUMS).where(_SUMS.c.step == FOLDS[-1][1], _SUMS.c.start < oldest))
            session.execute(delete(_SAMPLES).where(_SAMPLES.c.start < oldest))
            session.execute(delete(_VERSIONS).where(_VERSIONS.c.start < oldest))

    def _fold(self, step: int, coarser: int, limit: int) -> bool:
        """The oldest sums of this step into one of the coarser; False: none is older than the limit."""
        with self._database.write() as session:
            first = session.scalar(select(func.min(_SUMS.c.start)).where(_SUMS.c.step == step))
            if first is None or first >= limit:
                return False
            start = first - first % coarser
            old = (_SUMS.c.step == step, _SUMS.c.start >= start, _SUMS.c.start < start + coarser)
            which = (_SUMS.c.model, _SUMS.c.version, _SUMS.c.code)
            numbers = ("requests", *BUCKETS)
            part = literal(secrets.token_hex(8))
            query = select(
                literal(coarser), literal(start), *which, part, *(func.sum(_SUMS.c[name]) for name in numbers)
            )
            session.execute(insert(_SUMS).from_select([*_KEYS, *numbers], query.where(*old).group_by(*which)))
            session.execute(delete(_SUMS).where(*old))
            return True


def _rows(minute: _Minute) -> list[dict[str, Any]]:
    """Of one minute: for each version all requests, then the errors by code."""
    rows = []
    for (model, version), totals in minute.sums.items():
        key = {"step": FINEST_S, "start": minute.start, "model": model, "version": version, "part": minute.part}
        counted = dict(zip(BUCKETS, totals.latency, strict=True))
        rows.append({**key, "code": "", "requests": totals.requests, **counted})
        nothing = dict.fromkeys(BUCKETS, 0)
        rows += [{**key, "code": code, "requests": count, **nothing} for code, count in totals.errors.items()]
    return rows


class ConnectionSamples:
    """How many devices are there, now and then."""

    def __init__(self, database: Database, figures: FleetFigures) -> None:
        self._database = database
        self._figures = figures

    def record(self, now: datetime) -> None:
        """The newest sample of these five minutes. Raises TemporaryError, BusyError."""
        found = Counter({state.value: count for state, count in self._figures.summary(now).connection.items()})
        states = [column.name for column in _SAMPLES.columns if column.name != "start"]
        row = {"start": start_of(now, SAMPLE_S), **{state: found[state] for state in states}}
        with self._database.write() as session:
            put_rows(session, ConnectionSampleRow, [row], ("start",))


HOUR_S = 3600


class VersionSamples:
    """On how many devices each version serves, by the hour."""

    def __init__(self, database: Database, figures: FleetFigures) -> None:
        self._database = database
        self._figures = figures

    def record(self, now: datetime) -> None:
        """The newest sample of this hour, in place of an earlier one. Raises TemporaryError, BusyError."""
        found: Counter[Served] = Counter({("", ""): 0})
        for each in self._figures.summary(now).versions:
            if each.version is not None:
                found[each.model, each.version] += each.devices
        start = start_of(now, HOUR_S)
        rows = [
            {"start": start, "model": model, "version": version, "devices": devices}
            for (model, version), devices in found.items()
        ]
        with self._database.write() as session:
            session.execute(delete(_VERSIONS).where(_VERSIONS.c.start == start))
            session.execute(insert(_VERSIONS), rows)

    def adoption(self, model: str, days: int, now: datetime) -> Adoption:
        """Of a model's versions, hour by hour up to this one. Raises NotFoundError."""
        last = start_of(now, HOUR_S)
        starts = range(last - days * 24 * HOUR_S + HOUR_S, last + HOUR_S, HOUR_S)
        within = (_VERSIONS.c.start >= starts[0], _VERSIONS.c.start <= last)
        columns = (_VERSIONS.c.version, _VERSIONS.c.start, _VERSIONS.c.devices)
        with self._database.read() as session:
            find_model(session, model)
            looked = set(session.scalars(select(_VERSIONS.c.start).where(_VERSIONS.c.model == "", *within)))
            rows = session.execute(select(*columns).where(_VERSIONS.c.model == model, *within)).all()
        counts: dict[str, dict[int, int]] = defaultdict(dict)
        for version, start, devices in rows:
            counts[version][start] = devices
        order = sorted(counts, key=lambda version: (-max(counts[version].values()), version))
        shown = [(version, counts[version]) for version in order[:MAX_SERIES]]
        if len(order) > MAX_SERIES:
            others: Counter[int] = Counter()
            for version in order[MAX_SERIES:]:
                others.update(counts[version])
            shown.append(("", others))
        return Adoption(
            model=model,
            starts=tuple(datetime.fromtimestamp(start, timezone.utc) for start in starts),
            by=tuple(
                VersionAdoption(
                    version=version or None,
                    devices=tuple(said.get(start, 0) if start in looked else None for start in starts),
                )
                for version, said in shown
            ),
        )
