"""What a host has a say in: windows in its own time zone, leases, metered networks."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.local_policy import (
    HostNow,
    HostPolicy,
    Lease,
    may_download,
    may_switch,
    next_opening,
    open_now,
    parse_window,
)
from registry.contracts.device.deployments import DeploymentPolicy

PARIS = ZoneInfo("Europe/Paris")
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)  # a Monday
WISH, URGENT = DeploymentPolicy(), DeploymentPolicy(urgent=True)
NIGHT = HostPolicy(windows=(parse_window("22:00-05:00"),), zone=PARIS)


def paris(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=PARIS)


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("22:00-05:00", ["2026-11-23T22:00", "2026-11-24T04:59"], ["2026-11-23T21:59", "2026-11-24T05:00"]),
        ("mon 22:00-05:00", ["2026-11-24T04:59"], ["2026-11-24T22:00", "2026-11-23T04:00"]),
        ("sat,sun 00:00-24:00", ["2026-11-28T00:00", "2026-11-29T23:59"], ["2026-11-30T00:00", "2026-11-27T23:59"]),
        ("fri-mon 10:00-11:00", ["2026-11-27T10:30", "2026-11-30T10:30"], ["2026-12-01T10:30"]),
    ],
)
def test_a_window_is_open_in_its_hours_and_days(window: str, inside: list[str], outside: list[str]) -> None:
    windows = [parse_window(window)]
    assert [open_now(windows, paris(text), PARIS) for text in inside] == [True] * len(inside)
    assert [open_now(windows, paris(text), PARIS) for text in outside] == [False] * len(outside)


@pytest.mark.parametrize(
    "text", ["", "22:00", "25:00-26:00", "10:00-10:00", "10:61-11:00", "day 10:00-11:00", "mon-xyz 1:00-2:00"]
)
def test_what_is_no_window_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="window"):
        parse_window(text)


@given(
    at=st.integers(0, 365 * 24 * 60).map(lambda minutes: NOON + timedelta(minutes=minutes)),
    begin=st.integers(0, 1439),
    length=st.integers(1, 1439),
    zone=st.sampled_from([PARIS, ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe"), timezone.utc]),
)
def test_an_open_window_agrees_with_the_clock_on_the_wall_also_when_summer_time_changes(
    at: datetime, begin: int, length: int, zone: ZoneInfo
) -> None:
    end = (begin + length) % 1440
    window = parse_window(f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}")
    local = at.astimezone(zone)
    minute = local.hour * 60 + local.minute
    within = begin <= minute < end if begin < end else minute >= begin or minute < end
    if open_now([window], at, zone):
        assert within
    opens = next_opening([window], at, zone)
    if opens is not None:
        assert at < opens <= at + timedelta(days=2)
        assert open_now([window], opens, zone)


def test_outside_the_window_the_switch_waits_for_it_to_open() -> None:
    wait = may_switch("lenet", WISH, NIGHT, HostNow(NOON, offered_at=NOON))
    assert wait is not None
    assert (wait.code, wait.until) == ("maintenance_window", paris("2026-11-23T22:00"))
    assert may_switch("lenet", WISH, NIGHT, HostNow(wait.until, offered_at=NOON)) is None


def test_what_is_urgent_waits_for_nothing() -> None:
    lease = Lease("a", NOON + timedelta(hours=1), "a film is being shown")
    assert may_switch("lenet", URGENT, NIGHT, HostNow(NOON, NOON, leases=[lease])) is None
    assert may_download("lenet", URGENT, NIGHT, HostNow(NOON, NOON, metered=True), 10**9) is None


def test_a_lease_holds_its_model_until_it_ends_and_no_other() -> None:
    lease = Lease("a", NOON + timedelta(hours=1), "a film is being shown", model="lenet")
    held = may_switch("lenet", WISH, HostPolicy(), HostNow(NOON, NOON, leases=[lease]))
    assert held is not None
    assert (held.code, held.until) == ("lease", lease.until)
    assert "a film" in held.message
    assert may_switch("other", WISH, HostPolicy(), HostNow(NOON, NOON, leases=[lease])) is None
    assert may_switch("lenet", WISH, HostPolicy(), HostNow(lease.until, NOON, leases=[lease])) is None


def test_leases_that_are_renewed_for_ever_hold_a_deployment_only_so_long() -> None:
    policy = HostPolicy(max_defer=timedelta(hours=2))
    later = NOON + timedelta(hours=2)
    lease = Lease("a", later + timedelta(hours=1), "again")
    early = may_switch("lenet", WISH, policy, HostNow(NOON, NOON, leases=[lease]))
    assert early is not None
    assert early.until == later
    assert may_switch("lenet", WISH, policy, HostNow(later, NOON, leases=[lease])) is None


def test_a_metered_network_holds_a_download_but_not_what_is_on_the_disk() -> None:
    at = HostNow(NOON, NOON, metered=True)
    wait = may_download("lenet", WISH, HostPolicy(), at, 5)
    assert wait is not None
    assert (wait.code, wait.until) == ("metered", NOON + timedelta(days=1))
    assert may_download("lenet", WISH, HostPolicy(), at, 0) is None
    assert may_download("lenet", WISH, HostPolicy(), HostNow(NOON + timedelta(days=1), NOON, metered=True), 5) is None
