"""What a list of devices says where its filters match none."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from registry.cli.fleet.selection import selection, there_are
from registry.client.errors import UsageFault
from registry.contracts.api.devices import DeviceQuery
from registry.contracts.api.fleet import DeviceSort, FleetSummary, SlotState, VersionCount


def slots(version: str | None, desired: str, devices: int, hardware: str) -> VersionCount:
    return VersionCount(
        model="lenet", version=version, desired=desired, state=SlotState.SERVING, hardware=hardware, devices=devices
    )


FLEET = FleetSummary(
    as_of=datetime(2026, 1, 1, tzinfo=timezone.utc),
    devices=1300,
    failing={"probation_nan": 1200, "bad_answer": 3},
    versions=(
        slots("1.0.0", "1.0.0", 900, "aarch64/cpu"),
        slots("1.0.0", "1.1.0", 200, "x86_64/cpu"),
        slots(None, "1.1.0", 5, "x86_64/cpu"),
    ),
)
EMPTY = FleetSummary(as_of=FLEET.as_of, devices=0)


def test_a_filter_by_code_names_the_codes_with_which_devices_fail() -> None:
    query = DeviceQuery(failing="probation_nann")
    assert there_are(query, FLEET) == ["Devices fail with: probation_nan (1,200), bad_answer (3)."]
    assert there_are(query, EMPTY) == ["No device fails."]


def test_a_filter_by_version_names_what_serves_on_all_hardware_together() -> None:
    query = DeviceQuery(serves="lenet@9.9.9")
    assert there_are(query, FLEET) == ["What serves most: lenet@1.0.0 (1,100)."]
    assert there_are(query, EMPTY) == ["Nothing serves."]


def test_other_filters_say_nothing_of_codes_and_versions() -> None:
    assert there_are(DeviceQuery(name="edge"), FLEET) == []


def test_an_order_may_be_written_with_a_dash_and_one_that_is_none_names_those_that_are() -> None:
    assert selection(sort="-last-seen").query.sort is DeviceSort.LAST_SEEN_BACKWARDS
    with pytest.raises(UsageFault, match="There is no order 'seen'") as refused:
        selection(sort="seen")
    assert refused.value.hint == "There are: name, last_seen, changed; with - before it too"
