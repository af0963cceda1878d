"""A device's plots: differences of totals within a session, gaps where nobody measured, marks where a version began."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from registry.contracts.device.messages import Health, ModelHealth, Quantiles
from registry.server.console.device_figures import device_plots
from registry.server.console.plots import Plot

START = datetime(2026, 11, 28, tzinfo=timezone.utc)


def report(at_s: float, requests: int, errors: int = 0, version: str = "1.0.0", session: str = "a") -> Health:
    figures = ModelHealth(
        version=version,
        requests=requests,
        errors={"run_failed": errors} if errors else {},
        latency_us=Quantiles(p50=200, p99=900),
        queue_depth=2,
    )
    at = START + timedelta(seconds=at_s)
    return Health(
        device="edge-1", session_id=session, seq=1, at=at, window_s=30, uptime_s=at_s, models={"lenet": figures}
    )


def plots(*reports: Health) -> dict[str, Plot]:
    return {plot.name: plot for plot in device_plots(list(reversed(reports)))}


def values(plot: Plot, line: int = 0) -> list[float | None]:
    return list(plot.lines[line].values)


def test_what_lies_between_two_reports_is_the_difference_of_their_totals() -> None:
    drawn = plots(report(0, 100), report(30, 400, errors=3), report(60, 400, errors=3))
    assert values(drawn["requests"]) == [None, 10, 0]
    assert values(drawn["errors"]) == [None, 1, None]
    assert values(drawn["latency"]) == [0.2, 0.2, 0.2]
    assert values(drawn["latency"], 1) == [0.9, 0.9, 0.9]
    assert values(drawn["queue"]) == [2, 2, 2]


def test_a_missing_report_and_a_new_session_leave_a_gap() -> None:
    drawn = plots(report(0, 100), report(300, 400), report(330, 5, session="b"), report(360, 35, session="b"))
    assert values(drawn["requests"]) == [None, None, None, 1]


def test_a_version_that_begins_is_marked() -> None:
    drawn = plots(report(0, 1), report(30, 2, version="1.1.0"), report(60, 3, version="1.1.0"))
    assert [(at.second, text) for at, text in drawn["requests"].marks] == [(30, "lenet@1.1.0")]


def test_a_model_that_a_report_does_not_name_is_not_measured_there() -> None:
    silent = report(30, 0).model_copy(update={"models": {}})
    drawn = plots(report(0, 100), silent, report(60, 200))
    assert values(drawn["queue"]) == [2, None, 2]
    assert values(drawn["requests"]) == [None, None, None]


def test_without_reports_there_are_no_lines() -> None:
    assert all(plot.lines == [] for plot in device_plots([]))
