"""What `registry devices show` says of a device's signatures."""

from __future__ import annotations

from datetime import datetime, timezone

from registry.cli.fleet.signatures import trust_text
from registry.contracts.api.devices import DeviceView
from registry.contracts.device.messages import DeviceTrust, Reported, TrustState

AT = datetime(2027, 1, 1, 12, tzinfo=timezone.utc)


def view(trust: DeviceTrust | None, *, reported: bool = True) -> DeviceView:
    said = Reported(
        device="edge-1", session_id="s", generation=1, at=AT, facts_digest=f"sha256:{'a' * 64}", trust=trust
    )
    return DeviceView(name="edge-1", created_at=AT, reported=said if reported else None)


def test_a_device_that_checks_nothing_is_called_unsigned_with_what_mends_it() -> None:
    for trust in (None, DeviceTrust(state=TrustState.UNSIGNED)):
        assert trust_text(view(trust)).startswith("unsigned")
        assert "rotate edge-1 --out" in trust_text(view(trust))


def test_a_device_that_never_reported_is_called_nothing() -> None:
    assert not trust_text(view(None, reported=False))


def test_stale_metadata_say_since_when_and_why() -> None:
    text = trust_text(view(DeviceTrust(state=TrustState.STALE, stale_since=AT, why="they expired")))
    assert text.startswith("metadata stale since 2027-01-01")
    assert text.endswith("they expired")


def test_refused_documents_are_listed_by_cause() -> None:
    trust = DeviceTrust(state=TrustState.SIGNED, expires=AT, refused={"signature": 3, "rollback": 1})
    text = trust_text(view(trust))
    assert text.startswith("signed, until 2027-01-01")
    assert text.endswith("documents refused: 1 rollback, 3 signature")
