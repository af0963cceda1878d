"""What the registry says of a device, by the rules alone."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from registry.contracts.api.fleet import ConnectionState, SlotState
from registry.contracts.device.deployments import Phase
from registry.core import presence
from registry.core.device_states import OF_PHASE, THERE, WORST_FIRST, WantedSlot, connection, device, slot_of

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
OLD, NEW = "sha256:" + "1" * 64, "sha256:" + "2" * 64
WANTED = WantedSlot("2.0.0", NEW, 3)


def said(state: str, serves: str | None = "1.0.0", phase: str | None = None, code: str = "", **more: Any) -> Any:
    """A slot of a report: what serves, and the deployment of the wanted manifest."""
    progress = {"manifest": NEW, "phase": phase, "attempt": 3, "code": code, **more} if phase else None
    manifest = {"1.0.0": OLD, "2.0.0": NEW, None: None}[serves]
    return {"state": state, "version": serves, "manifest": manifest, "desired_version": "2.0.0", "deployment": progress}


@pytest.mark.parametrize(
    ("report", "state", "code"),
    [
        (None, "assigned", ""),
        (said("serving"), "assigned", ""),
        (said("changing", phase="offered"), "assigned", ""),
        (said("changing", phase="deferred", code="lease_held"), "waiting", ""),
        (said("changing", phase="downloading"), "downloading", ""),
        (said("changing", phase="warming"), "trying", ""),
        (said("serving", "2.0.0", phase="probation"), "trying", ""),
        (said("serving", "2.0.0", phase="committed"), "serving", ""),
        (said("serving", "2.0.0"), "serving", ""),
        (said("changing", "2.0.0", phase="rolling_back"), "rolling_back", ""),
        (said("changing", phase="rolling_back"), "rolling_back", ""),
        (said("failed", phase="rolled_back", code="probation_nan"), "went_back", "probation_nan"),
        (said("failed", phase="failed", code="insufficient_disk"), "failing", "insufficient_disk"),
        (said("failed", phase="failed", code="quarantined"), "quarantined", "quarantined"),
        (said("failed", None, phase="failed", code="insufficient_disk"), "down", "insufficient_disk"),
        (said("failed", phase="failed"), "failing", "unexplained"),
        (said("recovering", None, phase="committed"), "recovering", ""),
        (said("failed", None, phase="committed") | {"fault": {"code": "crash_loop"}}, "down", "crash_loop"),
        (said("failed", phase="failed", code="quarantined", attempt=2), "assigned", ""),
        (said("failed", phase="failed", code="quarantined", manifest=OLD), "assigned", ""),
    ],
)
def test_a_slot_is_as_far_as_the_device_says_of_what_is_wanted_now(report: Any, state: str, code: str) -> None:
    found = slot_of(WANTED, report)
    assert found is not None
    assert (found.state, found.code) == (state, code)
    assert found.behind == ((report or {}).get("manifest") != NEW)


def test_a_model_that_is_not_wanted_is_leaving_until_it_is_gone() -> None:
    leaving = slot_of(None, said("serving"))
    assert leaving is not None
    assert (leaving.state, leaving.version, leaving.desired) == ("leaving", "1.0.0", "")
    assert slot_of(None, said("pending", None)) is None
    assert slot_of(None, None) is None


def test_a_device_is_said_to_be_in_the_worst_state_of_its_models() -> None:
    report = {"models": {"a": said("serving", "2.0.0"), "b": said("failed", phase="failed", code="load_failed")}}
    found = device({"a": WANTED, "b": WANTED}, report)
    assert (found.state, found.code, found.behind) == ("failing", "load_failed", True)
    assert device({"a": WANTED}, {"models": {"a": said("serving", "2.0.0")}}).behind is False
    assert device({}, None).state is SlotState.IDLE
    fault = device({}, {"models": {}, "fault": {"code": "insufficient_disk"}})
    assert (fault.state, fault.code) == ("failing", "insufficient_disk")


def test_every_phase_and_every_state_has_its_place() -> None:
    assert set(OF_PHASE) == set(Phase)
    assert set(WORST_FIRST) == set(SlotState)
    assert not set(ConnectionState) & set(SlotState)


@pytest.mark.parametrize("on_broker", [True, False])
@pytest.mark.parametrize("gone", [None, NOW])
@pytest.mark.parametrize("seen_s", [None, 0, 299, 300, 599, 600, 10_000])
def test_the_connection_agrees_with_who_counts_as_online_and_changes_when_it_says(
    seen_s: int | None, gone: datetime | None, on_broker: bool
) -> None:
    seen = NOW - timedelta(seconds=seen_s) if seen_s is not None else None
    until = seen + timedelta(seconds=600) if seen is not None else None
    state, deadline = connection(seen, until, gone, on_broker, NOW)
    assert (state in THERE) == presence.is_online(until, gone, NOW)
    if deadline is not None:
        before = connection(seen, until, gone, on_broker, deadline - timedelta(microseconds=1))
        assert before == (state, deadline)
        assert connection(seen, until, gone, on_broker, deadline)[0] is not state


def test_a_restored_database_knows_no_patience_and_calls_a_device_silent() -> None:
    assert connection(NOW, None, None, on_broker=True, now=NOW) == (ConnectionState.SILENT, None)
