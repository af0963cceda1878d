"""The plots of one device, from the reports of its health that are kept one by one. Pure.

A report's counters are totals since its session began, so what lies between two reports of one session is their
difference. Where a report is missing or a session ends, the line has a gap.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from registry.contracts.device.messages import Health, ModelHealth
from registry.server.console.plots import Line, Plot, colour

MISSED = 2.5
"""Times the length of a report's window: reports further apart than this have one missing between them."""
Value = Callable[[ModelHealth, ModelHealth | None, float], float | None]
"""Of a model in a report, its figures in the session's report before, and the seconds between."""


def device_plots(reports: Sequence[Health]) -> list[Plot]:
    """Requests, errors and latency of each model. `reports`: the newest first."""
    ordered = sorted(reports, key=lambda report: report.at)
    names = sorted({name for report in ordered for name in report.models})
    marks = [
        (late.at, f"{name}@{now}")
        for early, late in itertools.pairwise(ordered)
        for name in names
        if (now := _version(late, name)) is not None and now != _version(early, name)
    ]

    def plot(name: str, title: str, unit: str, lines: Sequence[tuple[str, Value]]) -> Plot:
        drawn = [
            Line(f"{model} {label}".strip(), _values(ordered, model, value), colour(number))
            for number, (model, label, value) in enumerate(
                (model, label, value) for model in names for label, value in lines
            )
        ]
        return Plot(name, title, unit, [report.at for report in ordered], drawn, marks)

    return [
        plot("requests", "Requests", "requests/s", [("", _rate)]),
        plot("errors", "Errors", "% of requests", [("", _error_share)]),
        plot("latency", "Latency", "ms", [("p50", _quantile("p50")), ("p99", _quantile("p99"))]),
        plot("queue", "Requests that wait or run", "requests", [("", lambda now, _before, _s: float(now.queue_depth))]),
    ]


def _values(ordered: Sequence[Health], model: str, value: Value) -> list[float | None]:
    found: list[float | None] = []
    for early, late in zip([None, *ordered], ordered, strict=False):
        figures = late.models.get(model)
        seconds = (late.at - early.at).total_seconds() if early is not None else 0.0
        next_to_it = early is not None and early.session_id == late.session_id and seconds <= MISSED * late.window_s
        before = early.models.get(model) if early is not None and next_to_it else None
        found.append(None if figures is None else value(figures, before, seconds))
    return found


def _version(report: Health, model: str) -> str | None:
    figures = report.models.get(model)
    return figures.version if figures is not None else None


def _new(now: int, before: int) -> int:
    """Since the report before; a counter that fell began again."""
    return now - before if now >= before else now


def _rate(now: ModelHealth, before: ModelHealth | None, seconds: float) -> float | None:
    return _new(now.requests, before.requests) / seconds if before is not None and seconds > 0 else None


def _error_share(now: ModelHealth, before: ModelHealth | None, _seconds: float) -> float | None:
    if before is None:
        return None
    requests = _new(now.requests, before.requests)
    errors = _new(sum(now.errors.values()), sum(before.errors.values()))
    return 100 * errors / requests if requests else None


def _quantile(which: str) -> Value:
    def of(now: ModelHealth, _before: ModelHealth | None, _seconds: float) -> float | None:
        microseconds: float = getattr(now.latency_us, which)
        return microseconds / 1000 if microseconds else None

    return of
