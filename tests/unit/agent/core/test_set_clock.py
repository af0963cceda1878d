"""A host's wall clock is set while the agent runs: nothing that lasts ends by it or is stretched by it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent.adapters.local_policy import HostLocalPolicy, Leases
from agent.core.lifecycle import State
from agent.core.local_policy import HostPolicy, SteadySince, SteadyUntil, parse_window
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.deployments import DeploymentPolicy
from tests.fakes.host import START, Host

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)
HOUR, DAY, LONG = timedelta(hours=1), timedelta(days=1), timedelta(days=20 * 365)
JUMPS = [-HOUR, HOUR, LONG, -LONG]
WISH = DeploymentPolicy()


@pytest.mark.parametrize("jump", JUMPS)
def test_how_long_ago_something_began_is_the_same_after_the_clock_was_set(jump: timedelta) -> None:
    since = SteadySince()
    assert since.at(NOON, NOON + HOUR, 100.0) == NOON
    later = NOON + 2 * HOUR + jump
    assert later - since.at(NOON, later, 100.0 + 3600.0) == 2 * HOUR


@pytest.mark.parametrize("jump", JUMPS)
def test_how_long_something_still_lasts_is_the_same_after_the_clock_was_set(jump: timedelta) -> None:
    until = SteadyUntil(NOON + 3 * HOUR, NOON, 100.0, DAY)
    later = NOON + HOUR + jump
    assert until.at(later, 100.0 + 3600.0) - later == 2 * HOUR


def test_a_clock_that_is_slewed_changes_no_date() -> None:
    since, until = SteadySince(), SteadyUntil(NOON + DAY, NOON, 0.0, DAY)
    since.at(NOON, NOON, 0.0)
    slewed = NOON + timedelta(seconds=1000.9)
    assert since.at(NOON, slewed, 1000.0) == NOON
    assert until.at(slewed, 1000.0) == NOON + DAY


def test_nothing_lasts_longer_than_it_may_whatever_its_date_says() -> None:
    assert SteadyUntil(NOON + LONG, NOON, 0.0, DAY).at(NOON, 0.0) == NOON + DAY


class Hand:
    """The clocks of one host, moved by hand, and its say."""

    def __init__(self, folder: Path, policy: HostPolicy | None = None) -> None:
        self.wall, self.steady = NOON, 0.0
        self.leases = Leases(folder)
        say = policy or HostPolicy(max_defer=DAY)
        self.say = HostLocalPolicy(say, self.leases, lambda: True, lambda: self.wall, lambda: self.steady)

    def passes(self, time: timedelta) -> None:
        self.wall += time
        self.steady += time.total_seconds()


@pytest.mark.parametrize("jump", JUMPS)
def test_a_lease_holds_as_long_as_it_was_taken_for(tmp_path: Path, jump: timedelta) -> None:
    hand = Hand(tmp_path)
    hand.leases.add(NOON + 2 * HOUR, "a show", None, NOON)
    assert hand.say.may_switch("m", WISH, NOON) is not None
    hand.wall += jump
    hand.passes(HOUR)
    wait = hand.say.may_switch("m", WISH, hand.wall - HOUR)
    assert wait is not None
    assert abs(wait.until - hand.wall - HOUR) <= timedelta(seconds=2)
    hand.passes(HOUR)
    assert hand.say.may_switch("m", WISH, hand.wall - 2 * HOUR) is None


def test_a_lease_of_a_clock_that_was_wrong_holds_nothing_up_for_years(tmp_path: Path) -> None:
    (tmp_path / "abc.json").write_text(json.dumps({"until": (NOON + LONG).isoformat(), "reason": "written in 2046"}))
    hand = Hand(tmp_path, HostPolicy(max_defer=LONG))
    assert hand.say.may_switch("m", WISH, NOON) is not None
    hand.passes(8 * DAY)
    assert hand.say.may_switch("m", WISH, NOON) is None


@pytest.mark.parametrize(
    ("jump", "waits"), [(-HOUR, True), (timedelta(hours=11), False), (LONG, True), (-13 * HOUR, False)]
)
def test_a_maintenance_window_follows_the_calendar_in_both_directions(
    tmp_path: Path, jump: timedelta, waits: bool
) -> None:
    hand = Hand(tmp_path, HostPolicy(windows=(parse_window("22:00-05:00"),)))
    assert hand.say.may_switch("m", WISH, NOON) is not None
    hand.wall += jump
    assert (hand.say.may_switch("m", WISH, hand.wall) is not None) is waits


@pytest.mark.parametrize("jump", JUMPS)
def test_a_deployment_waits_for_its_host_as_long_as_its_settings_say(jump: timedelta, tmp_path: Path) -> None:
    host, leases = Host(), Leases(tmp_path)
    leases.add(START + 5 * DAY, "a show", None, START)
    policy = HostPolicy(max_defer=DAY)
    host.context.host = HostLocalPolicy(policy, leases, lambda: False, host.now, lambda: host.elapsed)
    host.desire(1, lenet="1.0.0").settle()
    assert host.journal.records["lenet"].state is State.DEFERRED
    host.set_by = jump
    host.wait(10.0)
    written = host.journal.records["lenet"]
    host.wait(23 * 3600.0)
    assert host.journal.records["lenet"] is written  # nothing is written again and again for a clock that is slewed
    assert written.state is State.DEFERRED
    assert host.wait(2 * 3600.0).serves() == "1.0.0"


def expired(host: Host) -> bool:
    fault = host.reports[-1].models["lenet"].fault
    return fault is not None and fault.code == DeploymentCode.DESIRED_EXPIRED


def test_a_desired_state_that_expired_only_by_a_wrong_clock_is_installed_once_that_is_set() -> None:
    host = Host(set_by=LONG)
    host.desire(1, expires_at=START + DAY, lenet="1.0.0").settle()
    assert expired(host)
    host.set_by = timedelta()
    assert host.wait(10.0).serves() == "1.0.0"


@pytest.mark.parametrize("jump", JUMPS)
def test_a_probation_lasts_as_long_as_its_policy_says(jump: timedelta) -> None:
    host = Host().desire(1, lenet="1.0.0").commit()
    host.desire(2, lenet="2.0.0").settle()
    assert host.journal.records["lenet"].state is State.PROBATION
    host.set_by = jump
    host.wait(10.0)
    assert host.journal.records["lenet"].state is State.PROBATION
    host.wait(3600.0)
    assert host.journal.records["lenet"].state is State.COMMITTED
    assert host.serves() == "2.0.0"
