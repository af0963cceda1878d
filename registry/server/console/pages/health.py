"""Health: requests, errors, latencies and devices over time, and two versions side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from registry.contracts.api.fleet import ConnectionState, FleetSummary
from registry.contracts.api.over_time import AnswerFigures, AnswerSeries, HealthSeries, HealthSpan
from registry.core.device_states import THERE
from registry.server.console import device_texts
from registry.server.console.plots import NOT_MEASURED, Line, Plot, colour, mark_word, marks_of, number_text
from registry.server.console.rendering import page
from registry.server.console.sections import NavEntry
from registry.server.console.visitors import Reading
from registry.server.device_pages import count_page
from registry.server.middleware.auth import ServicesDep
from registry.server.middleware.paging import PagingDep

router = APIRouter()
SECTION = NavEntry("Health", "/health", "health", router)
MAX_CHOICES = 200
LEAST_S = 20.0
"""Of a step that began less long ago nothing is shown: sums are written every 10 s."""
CONNECTIONS = (
    *(ConnectionState.ONLINE, ConnectionState.HTTP_ONLY, ConnectionState.LATE),
    *(ConnectionState.SILENT, ConnectionState.OFFLINE),
)


class HealthQuery(BaseModel):
    """What the page's address says."""

    span: HealthSpan = HealthSpan.DAY
    model: str = Field("", max_length=64)
    """Empty: all."""
    old: str = Field("", max_length=64)
    """The version that the other one is compared with; empty: of the two that began last, the older."""
    new: str = Field("", max_length=64)
    """Likewise, the newer."""


@router.get("/health")
def health(
    request: Request,
    services: ServicesDep,
    _who: Reading,
    wanted: Annotated[HealthQuery, Query()],
) -> Response:
    """The plots; of one model, by version and with two of them compared."""
    now, span, model = services.clock(), wanted.span, wanted.model
    series = services.fleet.over_time.view(span, model or None, now)
    figures = services.fleet.figures.summary(now)
    versions = [each for each in series.by if each.name] if model else []
    pair = _pair(versions, wanted.old, wanted.new)
    return page(
        request,
        "health.html",
        live=True,
        series=series,
        figures=figures,
        spans=tuple(HealthSpan),
        models=_models(series, figures, model),
        stats=tuple(_stats(series.total.figures, figures)),
        plots=tuple(_plots(series)),
        versions=[each.name for each in versions],
        pair=pair,
        compared=list(_compared(pair[0].figures, pair[1].figures)) if pair else [],
        mark_word=mark_word,
    )


@router.get("/health/counts")
def counts(
    request: Request,
    services: ServicesDep,
    paging: PagingDep,
    _who: Reading,
    device: Annotated[str, Query(max_length=64)] = "",
    model: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """Requests by device, model and version, since each was first counted."""
    found = count_page(services, paging, device or None, model or None)
    return page(request, "counts.html", counts=found.items, next=found.next, device=device, model=model)


def _models(series: HealthSeries, figures: FleetSummary, chosen: str) -> list[str]:
    known = {each.model for each in figures.versions} | {chosen}
    if series.model is None:
        known |= {each.name for each in series.by}
    return sorted(known - {""})[:MAX_CHOICES]


def _share(figures: AnswerFigures) -> float | None:
    return 100 * figures.errors / figures.requests if figures.requests else None


def _with(value: float | None, unit: str) -> str:
    return NOT_MEASURED if value is None else f"{number_text(value)} {unit}".rstrip()


def _stats(total: AnswerFigures, figures: FleetSummary) -> Iterator[tuple[str, str]]:
    there = sum(figures.connection.get(state, 0) for state in THERE)
    yield "Requests", f"{total.requests:,}"
    share = _share(total)
    yield "Errors", "no requests" if share is None else "< 0.01 %" if 0 < share < 0.01 else f"{number_text(share)} %"
    yield "Latency p50", _with(total.p50_ms, "ms")
    yield "Latency p95", _with(total.p95_ms, "ms")
    yield "Latency p99", _with(total.p99_ms, "ms")
    yield "Devices there now", f"{there:,} of {figures.devices:,}"


def _plots(series: HealthSeries) -> Iterator[Plot]:
    by = "version" if series.model else "model"
    marks = marks_of(series.rollouts, with_model=series.model is None)
    elapsed = [min(float(series.step_s), (series.as_of - start).total_seconds()) for start in series.starts]

    def plot(name: str, title: str, unit: str, lines: Sequence[Line]) -> Plot:
        return Plot(name, title, unit, series.starts, lines, marks, series.step_s)

    def lines(values: str) -> list[Line]:
        return [
            Line(each.name or "all others", _values(each, values, elapsed), colour(number) if each.name else 0)
            for number, each in enumerate(series.by)
        ]

    total = series.total
    yield plot("requests", f"Requests by {by}", "requests/s", lines("rate"))
    yield plot("shares", f"Errors by {by}", "% of requests", lines("share"))
    percentiles = {"p50": total.p50_ms, "p95": total.p95_ms, "p99": total.p99_ms}
    yield plot("latency", "Latency", "ms", [Line(p, v, colour(n)) for n, (p, v) in enumerate(percentiles.items())])
    yield plot("p95", f"Latency p95 by {by}", "ms", lines("p95"))
    codes = [Line(code, counts, colour(number)) for number, (code, counts) in enumerate(series.errors.items())]
    yield plot("codes", "Errors by code", f"errors in {_step(series.step_s)}", codes[:8])
    devices = [
        Line(device_texts.CONNECTIONS[state][1], series.devices[state], colour(number))
        for number, state in enumerate(CONNECTIONS)
        if state is ConnectionState.ONLINE or any(series.devices[state])
    ]
    yield plot("devices", "Devices by connection, of the whole fleet", "devices", devices)


def _step(seconds: int) -> str:
    return f"{seconds // 3600} h" if seconds >= 3600 else f"{seconds // 60} min"


def _values(each: AnswerSeries, values: str, elapsed: Sequence[float]) -> list[float | None]:
    if values == "p95":
        return list(each.p95_ms)
    if values == "rate":
        return [
            None if requests is None or seconds < LEAST_S else requests / seconds
            for requests, seconds in zip(each.requests, elapsed, strict=True)
        ]
    return [
        100 * (errors or 0) / requests if requests else None
        for requests, errors in zip(each.requests, each.errors, strict=True)
    ]


def _pair(versions: Sequence[AnswerSeries], old: str, new: str) -> tuple[AnswerSeries, AnswerSeries] | None:
    """The two versions that were chosen; else the two that began last."""
    if len(versions) < 2:
        return None
    named = {each.name: each for each in versions}
    return named.get(old, versions[-2]), named.get(new, versions[-1])


def _compared(old: AnswerFigures, new: AnswerFigures) -> Iterator[tuple[str, str, str, str]]:
    """What is compared, of the old one, of the new one, and the difference."""
    yield "Requests", f"{old.requests:,}", f"{new.requests:,}", ""
    rows = [("Errors", "%", _share(old), _share(new))]
    rows += [
        (f"Latency {name}", "ms", getattr(old, f"{name}_ms"), getattr(new, f"{name}_ms"))
        for name in ("p50", "p95", "p99")
    ]
    for name, unit, before, after in rows:
        yield name, _with(before, unit), _with(after, unit), _difference(before, after, unit)


def _difference(before: float | None, after: float | None, unit: str) -> str:
    if before is None or after is None:
        return NOT_MEASURED
    sign = "+" if after > before else "−" if after < before else ""
    if unit == "%":
        return f"{sign}{number_text(abs(after - before))} points"
    share = f" ({sign}{number_text(abs(after / before - 1) * 100)} %)" if before else ""
    return f"{sign}{number_text(abs(after - before))} {unit}{share}"
