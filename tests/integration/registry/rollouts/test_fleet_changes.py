"""Devices that come, go, change and belong to others while a rollout runs; two schedulers; death between two steps."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import event, select

from registry.contracts.rollout.spec import Fleet, GroupBody, Offline, OfflinePolicy, Rate
from registry.contracts.rollout.states import Command
from registry.db.rollout_rows import RolloutRow
from registry.errors import InvalidError
from registry.services.fleet.desired import DesiredDocuments
from registry.services.rollouts.ticker import Ticker
from tests.integration.registry.rollouts.world import SLOW, R, S, World, quick

NAMES = tuple(f"d{number}" for number in range(4))
AT_ONCE = quick().waves[1:]


def test_facts_that_change_before_the_offer_choose_anew(world: World) -> None:
    world.publish("4.0.0", arch=("x86_64",))
    world.add(*NAMES)
    rollout = world.start(version="4.0.0")
    last = next(name for name, state in world.states(rollout).items() if state is S.PLANNED)
    world.telemetry.put_facts(last, SLOW, world.now)
    view = world.run(rollout, R.SUCCEEDED)
    assert view.counts == {S.COMMITTED: 3, S.INCOMPATIBLE: 1}
    assert world.wants(last) == "1.0.0"


def test_a_deleted_device_leaves_and_is_not_waited_for(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start()
    world.devices.delete("d0", world.now)
    del world.fleet["d0"]
    view = world.run(rollout, R.SUCCEEDED)
    assert view.counts == {S.COMMITTED: 3, S.DECOMMISSIONED: 1}


def test_a_deployment_by_hand_takes_the_device_from_the_rollout(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start(waves=AT_ONCE)
    world.deploy("d0", "3.0.0")
    assert world.states(rollout)["d0"] is S.SUPERSEDED
    assert world.run(rollout, R.COMPLETED_WITH_EXCEPTIONS).counts == {S.COMMITTED: 3, S.SUPERSEDED: 1}
    world.command(rollout, Command.ROLLBACK)
    world.run(rollout, R.ROLLED_BACK)
    assert [world.wants(name) for name in NAMES] == ["3.0.0", "1.0.0", "1.0.0", "1.0.0"]


def test_a_newer_rollout_takes_devices_and_knows_their_last_good(world: World) -> None:
    world.add(*NAMES)
    older = world.start(waves=AT_ONCE)
    newer = world.start(version="3.0.0", waves=AT_ONCE)
    assert world.rollouts.plan(newer, world.now).collisions[0].rollout == older
    assert set(world.states(older).values()) == {S.SUPERSEDED}
    world.run(newer, R.SUCCEEDED)
    assert world.run(older, lambda state: state is not R.RUNNING).counts == {S.SUPERSEDED: 4}
    world.command(newer, Command.ROLLBACK)
    world.run(newer, R.ROLLED_BACK)
    assert {world.wants(name) for name in NAMES} == {"1.0.0"}


def offline(policy: OfflinePolicy) -> Offline:
    return Offline(policy=policy, grace_s=1200, follow_s=86400)


def test_a_device_that_is_offline_follows_when_it_is_back(world: World) -> None:
    world.add(*NAMES)
    world.offline("d3")
    world.now += timedelta(seconds=700)
    world.answer()  # the others are heard
    rollout = world.start(offline=offline(OfflinePolicy.FOLLOW_LATER))
    for _ in range(30):
        world.answer()
        world.tick(60)
    assert world.view(rollout).counts == {S.COMMITTED: 3, S.EXCLUDED: 1}
    assert (world.state(rollout), world.wants("d3")) == (R.RUNNING, "1.0.0")
    world.back("d3")
    assert world.run(rollout, R.SUCCEEDED).counts == {S.COMMITTED: 4}


def test_a_device_that_does_not_come_back_is_an_exception(world: World) -> None:
    world.add(*NAMES)
    world.offline("d3")
    world.now += timedelta(seconds=700)
    world.answer()  # the others are heard
    rollout = world.start(offline=offline(OfflinePolicy.FOLLOW_LATER))
    for _ in range(30):
        world.answer()
        world.tick(60)
    world.tick(2 * 86400)
    assert world.view(rollout).state is R.COMPLETED_WITH_EXCEPTIONS


def test_a_device_that_is_offline_counts_as_failed_where_the_policy_says_so(world: World) -> None:
    world.add(*NAMES)
    world.offline("d3")
    world.now += timedelta(seconds=700)
    world.answer()  # the others are heard
    gate = quick().gate.model_copy(update={"max_failed_pct": 50, "min_committed_pct": 50})
    rollout = world.start(offline=offline(OfflinePolicy.COUNT_FAILED), gate=gate, waves=AT_ONCE)
    view = world.run(rollout, R.COMPLETED_WITH_EXCEPTIONS)
    assert view.counts == {S.COMMITTED: 3, S.FAILED: 1}
    assert world.wants("d3") == "1.0.0"


def test_a_wave_waits_for_who_is_offline_where_the_policy_says_so(world: World) -> None:
    world.add(*NAMES)
    world.offline("d3")
    world.now += timedelta(seconds=700)
    world.answer()  # the others are heard
    gate = quick().gate.model_copy(update={"min_committed_pct": 100})
    rollout = world.start(offline=offline(OfflinePolicy.WAIT), gate=gate, waves=AT_ONCE)
    for _ in range(60):
        world.answer()
        world.tick(120)
    assert world.view(rollout).counts == {S.COMMITTED: 3, S.OFFERED: 1}
    world.back("d3")
    assert world.run(rollout, R.SUCCEEDED).counts == {S.COMMITTED: 4}


def test_two_schedulers_offer_each_device_once(world: World) -> None:
    world.add(*NAMES)
    made = world.rollouts.create(quick(waves=AT_ONCE), None, "alice", world.now)
    with world.database.read() as session:
        number = session.scalars(select(RolloutRow.id).where(RolloutRow.public == made.id)).one()
    before = {name: world.desired(name).generation for name in NAMES}
    world.rollouts.command(made.id, command(world, made.id), None, "alice", world.now)
    tickers = [world.new_ticker() for _ in range(4)]

    def race(ticker: Ticker) -> None:
        for _ in range(5):
            ticker.plan(lambda: world.now)
            ticker.look(number, world.now)  # past the lease: each believes that it leads

    with ThreadPoolExecutor(len(tickers)) as pool:
        list(pool.map(race, tickers))
    assert [world.desired(name).generation - before[name] for name in NAMES] == [1] * 4
    causes = [entry.cause for _, entry in world.rollouts.history(made.id, 1 << 40, 100)]
    assert sorted(causes) == sorted(["create", "submit", "planned", "due"])
    world.run(made.id, R.SUCCEEDED)


def command(world: World, rollout: str) -> Any:
    from registry.contracts.rollout.views import CommandBody

    return CommandBody(command=Command.SUBMIT, revision=world.view(rollout).revision)


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def killed_at(world: World, number: int) -> Iterator[None]:
    """The transaction of this number is not committed: the process died before."""
    seen = 0

    def before_commit(_connection: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            raise Killed

    event.listen(world.database.engine, "commit", before_commit)
    try:
        yield
    finally:
        event.remove(world.database.engine, "commit", before_commit)


@pytest.mark.parametrize("ending", ["succeeds", "goes back"])
def test_a_process_that_dies_at_any_commit_leaves_nothing_that_the_next_cannot_finish(
    world: World, ending: str
) -> None:
    world.add(*NAMES)
    rollout = world.rollouts.create(quick(), None, "alice", world.now).id
    world.rollouts.command(rollout, command(world, rollout), None, "alice", world.now)
    if ending == "goes back":
        for name in NAMES:
            world.fleet[name].behaviour = "slow"
    deaths, number = 0, 1
    for _ in range(40):
        try:
            with killed_at(world, number):
                world.tick(30)
            number = 1
        except Killed:
            deaths += 1
            number += 1
            world.ticker = world.new_ticker()
            world.documents = DesiredDocuments(world.database)
            world.tick(30)
        world.answer()
        if ending == "goes back" and world.state(rollout) is R.RUNNING and deaths > 3:
            world.command(rollout, Command.ROLLBACK)
            for name in NAMES:
                world.fleet[name].behaviour = "good"
        if world.state(rollout) in (R.SUCCEEDED, R.ROLLED_BACK):
            break
    assert deaths > 3
    assert world.state(rollout) is (R.SUCCEEDED if ending == "succeeds" else R.ROLLED_BACK)
    assert {world.wants(name) for name in NAMES} == {"2.0.0" if ending == "succeeds" else "1.0.0"}


def test_a_poll_and_a_look_that_change_nothing_write_nothing(world: World) -> None:
    world.add(*NAMES)
    world.start()
    world.tick(1)
    writes: list[str] = []

    def watch(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().split(" ", 1)[0].upper() in ("INSERT", "UPDATE", "DELETE"):
            writes.append(statement)

    event.listen(world.database.engine, "before_cursor_execute", watch)
    for _ in range(3):
        world.documents.load("d0")
        world.tick(0)
    event.remove(world.database.engine, "before_cursor_execute", watch)
    assert writes == []


def test_a_group_that_was_deleted_meanwhile_does_not_keep_a_retry_from_its_end(world: World) -> None:
    world.add(*NAMES)
    world.fleet["d0"].behaviour = "failing"
    world.groups.put("front", GroupBody(devices=NAMES), world.now)
    gate = quick().gate.model_copy(update={"max_failed_pct": 50, "min_committed_pct": 50})
    rollout = world.start(fleet=Fleet(groups=("front",)), waves=AT_ONCE, gate=gate)
    world.run(rollout, R.COMPLETED_WITH_EXCEPTIONS)
    world.groups.delete("front")
    world.fleet["d0"].behaviour = "good"
    world.command(rollout, Command.RETRY)
    assert world.run(rollout, R.SUCCEEDED).counts == {S.COMMITTED: 4}


def test_a_registrys_clock_that_is_set_back_stops_nothing(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start(rate=Rate(devices_per_minute=1))
    restarted = world.new_ticker()  # the lease of the one before ends in a month, so does its bucket
    for _ in range(30):
        world.answer()
        world.now += timedelta(seconds=60)
        restarted.tick(world.now - timedelta(days=30))
    assert world.state(rollout) is R.SUCCEEDED
    assert world.view(rollout).counts == {S.COMMITTED: 4}


def test_a_name_that_may_be_another_rollouts_id_is_refused(world: World) -> None:
    world.add(*NAMES)
    with pytest.raises(InvalidError):
        world.rollouts.create(quick(name=world.start()), None, "alice", world.now)


def test_a_device_whose_session_ended_is_offline_at_once_until_it_is_heard_again(world: World) -> None:
    world.add(*NAMES)
    world.offline("d0")
    rollout = world.start(waves=AT_ONCE, offline=Offline(grace_s=5, policy=OfflinePolicy.COUNT_FAILED))
    world.tick(10)
    assert world.states(rollout)["d0"] is S.FAILED
    world.offline("d1")
    world.say("d1")  # over HTTP: there is no broker for it
    another = world.start(version="3.0.0", waves=AT_ONCE, offline=Offline(grace_s=5, policy=OfflinePolicy.COUNT_FAILED))
    world.tick(10)
    assert world.states(another)["d1"] is S.OFFERED


def test_a_rollout_that_would_end_before_it_begins_is_refused(world: World) -> None:
    world.add("d0")
    with pytest.raises(InvalidError, match="is over"):
        world.start(valid_until=world.now - timedelta(seconds=1))
    made = world.rollouts.create(quick(valid_until=world.now + timedelta(seconds=5)), None, "alice", world.now)
    world.tick(10)
    with pytest.raises(InvalidError, match="is over"):
        world.command(made.id, Command.SUBMIT)


def test_a_rate_that_would_take_for_ever_is_shown_without_an_end(world: World) -> None:
    world.add(*(f"d{number}" for number in range(30)))
    with pytest.raises(ValidationError):
        Rate(devices_per_minute=1e-300)
    rollout = world.start(waves=AT_ONCE, rate=Rate(devices_per_minute=0.001))
    view = world.view(rollout)
    assert view.eta is not None
    assert view.eta < world.now + timedelta(days=365)
    world.publish("9.0.0", size=10**9)
    slower = world.start(version="9.0.0", waves=AT_ONCE, rate=Rate(bytes_per_second=1))
    assert (world.state(slower), world.view(slower).eta) == (R.RUNNING, None)
