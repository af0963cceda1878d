"""Reads the fleet over time: sums of what was answered, devices by connection, and what rollouts did meanwhile.

A read costs by steps, models and versions within the span, never by devices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import case, func, inspect, select
from sqlalchemy.orm import Session

from registry.contracts.api.fleet import ConnectionState
from registry.contracts.api.over_time import (
    MAX_MARKS,
    MAX_SERIES,
    AnswerFigures,
    AnswerSeries,
    HealthSeries,
    HealthSpan,
    RolloutMark,
)
from registry.core.over_time import SAMPLE_S, STEPS, Grid, grid, percentile_ms, time_of
from registry.db.over_time_rows import BUCKETS, AnswerSumRow, ConnectionSampleRow
from registry.db.rollout_rows import RolloutRow
from registry.services.fleet.fleet_totals import VersionTotals
from registry.services.queries import UseCases

_SUMS: Any = inspect(AnswerSumRow).local_table
_SAMPLES: Any = inspect(ConnectionSampleRow).local_table
ByStart = dict[int, VersionTotals]
REST = ""


class HealthOverTime(UseCases):
    """The fleet's plots."""

    def view(self, span: HealthSpan, model: str | None, now: datetime) -> HealthSeries:
        """By model; of one model by version. A model that answered nothing has a view without series."""
        steps = grid(span, now)
        with self._database.read() as session:
            names = _names(session, steps, model)
            sums = _sums(session, steps, model, names)
            samples = _samples(session, steps)
            marks = _marks(session, steps, model)
        counted = _counted(steps, samples, sums.values())
        total: ByStart = {}
        for by_start in sums.values():
            for start, totals in by_start.items():
                total.setdefault(start, VersionTotals()).add(totals)
        order = sorted(sums, key=lambda name: (name == REST, min(sums[name]), name))
        return HealthSeries(
            as_of=now,
            span=span,
            step_s=steps.step_s,
            model=model,
            starts=tuple(time_of(start) for start in steps.starts),
            total=_series(REST, total, counted),
            by=tuple(_series(name, sums[name], counted) for name in order),
            errors=_errors(total, counted),
            devices=_devices(steps, samples),
            rollouts=marks,
        )


def _within(steps: Grid, model: str | None) -> list[Any]:
    within = [_SUMS.c.step.in_(STEPS), _SUMS.c.start >= steps.first, _SUMS.c.start < steps.end]
    return within if model is None else [*within, _SUMS.c.model == model]


def _names(session: Session, steps: Grid, model: str | None) -> list[str]:
    """Models, or versions of the model, with the most requests."""
    name = _SUMS.c.model if model is None else _SUMS.c.version
    query = select(name).where(*_within(steps, model), _SUMS.c.code == "").group_by(name)
    return list(session.scalars(query.order_by(func.sum(_SUMS.c.requests).desc(), name).limit(MAX_SERIES)))


def _sums(session: Session, steps: Grid, model: str | None, names: Sequence[str]) -> dict[str, ByStart]:
    name = _SUMS.c.model if model is None else _SUMS.c.version
    shown = case((name.in_(names), name), else_=REST).label("shown")
    start = (_SUMS.c.start - _SUMS.c.start % steps.step_s).label("at")
    numbers = (func.sum(_SUMS.c[each]) for each in ("requests", *BUCKETS))
    query = select(shown, start, _SUMS.c.code, *numbers).where(*_within(steps, model))
    found: dict[str, ByStart] = {}
    for of, at, code, requests, *latency in session.execute(query.group_by(shown, start, _SUMS.c.code)):
        totals = found.setdefault(of, {}).setdefault(int(at), VersionTotals())
        if code:
            totals.errors[code] += int(requests)
        else:
            totals.add(VersionTotals(int(requests), Counter(), [int(count) for count in latency]))
    return found


def _samples(session: Session, steps: Grid) -> dict[int, dict[str, float]]:
    """By start of a step; of a step finer than a sample, the sample that it is in."""
    states = [column for column in _SAMPLES.columns if column.name != "start"]
    step = max(steps.step_s, SAMPLE_S)
    start = (_SAMPLES.c.start - _SAMPLES.c.start % step).label("at")
    first = steps.first - steps.first % step
    query = select(start, *(func.avg(state) for state in states))
    query = query.where(_SAMPLES.c.start >= first, _SAMPLES.c.start < steps.end).group_by(start)
    return {
        int(at): {state.name: float(value) for state, value in zip(states, values, strict=True)}
        for at, *values in session.execute(query)
    }


def _marks(session: Session, steps: Grid, model: str | None) -> tuple[RolloutMark, ...]:
    newest = select(RolloutRow.id)
    if model is not None:
        newest = newest.where(RolloutRow.model == model)
    columns = (RolloutRow.public, RolloutRow.model, RolloutRow.version, RolloutRow.state)
    times = (RolloutRow.started_at, RolloutRow.went_back_at, RolloutRow.ended_at)
    query = select(*columns, *times).where(RolloutRow.id.in_(newest.order_by(RolloutRow.id.desc()).limit(MAX_MARKS)))
    marks = [
        RolloutMark(at=at, rollout=public, model=of, version=version, what=what)
        for public, of, version, state, started, back, ended in session.execute(query)
        for what, at in (("started", started), ("went_back", back), (state, ended))
        if at is not None and steps.first <= at.timestamp() < steps.end
    ]
    return tuple(sorted(marks, key=lambda mark: (mark.at, mark.rollout)))


def _counted(steps: Grid, samples: Mapping[int, object], sums: Any) -> dict[int, bool]:
    """Whether somebody counted in a step: then no request is 0 requests, else it is not known."""
    there = {start for by_start in sums for start in by_start}
    step = max(steps.step_s, SAMPLE_S)
    return {start: start in there or start - start % step in samples for start in steps.starts}


def _series(name: str, by_start: ByStart, counted: Mapping[int, bool]) -> AnswerSeries:
    nothing, whole = VersionTotals(), VersionTotals()
    steps = [by_start.get(start, nothing) if there else None for start, there in counted.items()]
    for totals in by_start.values():
        whole.add(totals)

    def percentiles(fraction: float) -> tuple[float | None, ...]:
        return tuple(None if totals is None else percentile_ms(totals.latency, fraction) for totals in steps)

    return AnswerSeries(
        name=name,
        figures=AnswerFigures(
            requests=whole.requests,
            errors=whole.errors.total(),
            codes=dict(whole.errors.most_common()),
            measured=sum(whole.latency),
            p50_ms=percentile_ms(whole.latency, 0.5),
            p95_ms=percentile_ms(whole.latency, 0.95),
            p99_ms=percentile_ms(whole.latency, 0.99),
        ),
        requests=tuple(None if totals is None else totals.requests for totals in steps),
        errors=tuple(None if totals is None else totals.errors.total() for totals in steps),
        p50_ms=percentiles(0.5),
        p95_ms=percentiles(0.95),
        p99_ms=percentiles(0.99),
    )


def _errors(total: ByStart, counted: Mapping[int, bool]) -> dict[str, tuple[int | None, ...]]:
    whole: Counter[str] = Counter()
    for totals in total.values():
        whole.update(totals.errors)
    nothing = VersionTotals()
    return {
        code: tuple(total.get(start, nothing).errors[code] if there else None for start, there in counted.items())
        for code, _ in whole.most_common()
    }


def _devices(
    steps: Grid, samples: Mapping[int, Mapping[str, float]]
) -> dict[ConnectionState, tuple[float | None, ...]]:
    step = max(steps.step_s, SAMPLE_S)

    def values(state: ConnectionState) -> Iterator[float | None]:
        for start in steps.starts:
            sample = samples.get(start - start % step)
            yield None if sample is None else round(sample[state.value], 1)

    return {state: tuple(values(state)) for state in ConnectionState}
