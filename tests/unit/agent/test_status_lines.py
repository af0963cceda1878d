"""`agent status` says how far a deployment is, and what is wrong with it."""

from __future__ import annotations

from datetime import datetime, timezone

from agent.app.status import deployment_lines, health_lines, trust_line
from registry.contracts.device.messages import Health, ModelHealth, Quantiles

PROGRESS = {"version": "2.0.0", "phase": "rolled_back", "since": "2026-01-01T00:00:00Z", "failed_in": "probation"}


def test_it_names_the_phase_in_which_a_version_failed_and_why() -> None:
    model = {"deployment": PROGRESS, "fault": {"code": "probation_nan", "message": "3 of 30"}}
    assert deployment_lines(model) == [
        "2.0.0: rolled_back since 2026-01-01T00:00:00Z, failed in probation",
        "probation_nan: 3 of 30",
    ]


def test_a_download_says_how_far_it_is_and_a_model_without_a_deployment_says_nothing() -> None:
    model = {"deployment": {"version": "2", "phase": "downloading", "since": "t", "bytes_done": 3, "bytes_total": 9}}
    assert deployment_lines(model) == ["2: downloading since t, 3 of 9 bytes"]
    assert deployment_lines({}) == []


def test_what_a_probation_or_a_shadow_found_is_told() -> None:
    shadow = {"compared": 40, "agreement": 1.0}
    progress = {"version": "2", "phase": "probation", "since": "t", "until": "u", "message": "fine", "shadow": shadow}
    assert deployment_lines({"deployment": progress}) == [
        "2: probation since t, until u, 40 requests compared in its shadow",
        "fine",
    ]


def test_a_host_that_checks_no_signatures_is_called_unsigned() -> None:
    assert trust_line(None).startswith("unsigned")
    assert trust_line({"state": "unsigned"}).startswith("unsigned")


def test_stale_metadata_and_refused_documents_are_told() -> None:
    stale = {"state": "stale", "stale_since": "t", "why": "they expired", "refused": {"signature": 2}}
    text = "metadata stale since t, nothing new is installed: they expired; documents refused: 2 signature"
    assert trust_line(stale) == text
    assert trust_line({"state": "signed", "expires": "t"}) == "signed, fresh until t"


def test_figures_say_what_they_are_of_and_a_dash_stands_for_what_was_not_measured() -> None:
    busy = ModelHealth(
        requests=40,
        errors={"deadline_exceeded": 2},
        latency_us=Quantiles(p50=1500, p99=9000),
        queue_depth=3,
        queue_limit=64,
    )
    report = Health(
        device="edge-1", session_id="s", seq=1, at=datetime(2026, 1, 1, tzinfo=timezone.utc), window_s=30, uptime_s=60,
        outbox_queued=5, broker_fault="broker:1883: refused", models={"busy": busy, "idle": ModelHealth()},
    )  # fmt: skip
    told = list(health_lines(report.model_dump(mode="json"), "t"))
    assert told[0] == "registry last answered t"
    assert told[1] == "figures of 2026-01-01T00:00:00Z; disk - free; 5 results wait, 0 dropped"
    assert told[2] == "broker: broker:1883: refused"
    rows = [line.split() for line in told[4:6]]
    assert rows[0] == ["busy", "40", "2", "1.50", "ms", "9.00", "ms", "3", "of", "64"]
    assert rows[1] == ["idle", "0", "0", "-", "-", "-"]
    assert told[-1].strip() == "p50, p99: of 30 s; - where nothing was answered in that time."
    assert all(len(line) <= 80 for line in told)


def test_before_the_first_report_there_are_no_figures() -> None:
    assert list(health_lines(None, None)) == [
        "registry has not answered since this agent started",
        "no figures yet: the first come with the first report of health",
    ]
