"""`agent status` says how far a deployment is, and what is wrong with it."""

from __future__ import annotations

from agent.app.status import deployment_lines, trust_line

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
