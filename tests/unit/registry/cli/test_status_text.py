"""What `registry status` says of certificates, and of devices that cannot be heard."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from registry.cli.fleet.status import _keys_line, _serving_line
from registry.contracts.api.fleet import ConnectionState, FleetSummary, SlotState

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def line(**left: timedelta) -> str:
    summary = FleetSummary(as_of=NOW, devices=0, certificates={name: NOW + each for name, each in left.items()})
    return _keys_line(summary, NOW)


def test_certificates_come_by_days_left_and_those_that_end_soon_stand_out() -> None:
    assert line(broker=timedelta(days=90), broker_client=timedelta(days=13, hours=5)) == (
        "client certificate for the broker 13 days left: RENEW, broker's certificate 90 days left"
    )


def test_one_that_has_ended_says_so() -> None:
    assert line(devices_broker_client=timedelta(seconds=-1)) == "devices' client certificates EXPIRED"


def test_without_any_that_is_said() -> None:
    assert line() == "no certificate that the registry knows of"


def test_what_silent_devices_serve_is_called_a_report() -> None:
    serving = {SlotState.SERVING: 1200, SlotState.FAILING: 0}
    heard = FleetSummary(as_of=NOW, devices=1200, serving=serving, connection={ConnectionState.ONLINE: 1200})
    assert _serving_line(heard) == "1,200 serve what they should"
    silent = heard.model_copy(update={"connection": {ConnectionState.SILENT: 1000, ConnectionState.OFFLINE: 50}})
    assert _serving_line(silent) == "1,200 serve what they should; as last reported: 1,050 of them cannot be heard now"
