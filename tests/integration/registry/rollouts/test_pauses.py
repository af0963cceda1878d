"""A pause holds who has not committed: before the switch, and in probation; who waits for a person is not silent."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from registry.contracts.codes import ReasonCode
from registry.contracts.device.deployments import Phase
from registry.contracts.rollout.spec import Rate, RollbackSpec, Timeouts
from registry.contracts.rollout.states import Command
from registry.contracts.rollout.views import Approval, CommandBody
from tests.integration.registry.rollouts.world import R, S, World, quick

NAMES = ("d0", "d1", "d2")
AT_ONCE = quick().waves[1:]
DAYS = 5 * 86400.0
SHORT = Timeouts(staged=600, probation=600)


def on_probation(world: World, **changes: Any) -> str:
    """A rollout to all at once, whose devices serve it and are watched."""
    world.add(*NAMES, behaviour="slow")
    rollout = world.start(waves=AT_ONCE, timeouts=SHORT, **changes)
    world.answer()
    assert set(world.states(rollout).values()) == {S.PROBATION}
    return rollout


def paused(world: World, **changes: Any) -> str:
    """As `on_probation`; then it was paused for days, and every device is well and has heard of it."""
    rollout = on_probation(world, **changes)
    world.command(rollout, Command.PAUSE)
    for device in world.fleet.values():
        device.behaviour = "good"
    world.answer()
    world.tick(DAYS)
    return rollout


def committed_as_it_was_paused(world: World, name: str) -> str:
    """As `on_probation`; one device commits when the registry has paused it and the device has not heard of that."""
    rollout = on_probation(world)
    world.command(rollout, Command.PAUSE)
    device = world.fleet[name]
    assert device.deployment is not None
    device.serving = world.desired(name).models["lenet"]
    device.deployment = device.deployment.model_copy(update={"phase": Phase.COMMITTED, "since": world.now})
    world.say(name)
    world.answer(name)
    return rollout


def holds(world: World, name: str = "d0") -> bool:
    return world.desired(name).models["lenet"].policy.hold


def test_devices_in_probation_wait_for_the_end_of_a_pause_however_long_and_say_so(world: World) -> None:
    rollout = paused(world)
    action = world.rollouts.device(rollout, "d0", world.now)
    assert (action.state, action.due, action.code) == (S.PROBATION, None, "held")
    assert "while the rollout is paused; resume the rollout, or roll it back" in action.why
    world.command(rollout, Command.RESUME)
    assert not holds(world)
    world.answer()
    assert world.view(rollout).counts == {S.COMMITTED: 3}
    world.run(rollout, R.SUCCEEDED)


def test_after_a_pause_time_counts_from_the_beginning_and_then_silence_is_counted(world: World) -> None:
    rollout = paused(world)
    for name in NAMES:
        world.offline(name)
    world.command(rollout, Command.RESUME)
    world.tick(600)
    assert set(world.states(rollout).values()) == {S.PROBATION}
    world.tick(120)
    assert set(world.states(rollout).values()) == {S.TIMED_OUT}


def test_what_was_staged_when_the_pause_ended_has_fresh_time_too(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start(waves=AT_ONCE, timeouts=SHORT)
    world.command(rollout, Command.PAUSE)
    world.answer()
    world.tick(DAYS)
    world.command(rollout, Command.RESUME)
    world.tick(500)
    assert set(world.states(rollout).values()) == {S.STAGED}
    world.run(rollout, R.SUCCEEDED)


def test_who_is_held_while_a_retry_waits_for_approval_is_not_timed_out_nor_let_go(world: World) -> None:
    world.add(*NAMES)
    world.fleet["d0"].behaviour = "failing"
    rollout = world.start(waves=AT_ONCE, timeouts=SHORT, requires_approval=True)
    _approve(world, rollout)
    world.answer("d0")
    world.tick()
    assert world.state(rollout) is R.PAUSED
    world.answer()
    world.command(rollout, Command.RETRY, devices=("d0",))
    assert world.state(rollout) is R.AWAITING_APPROVAL
    world.tick(DAYS)
    assert world.states(rollout)["d1"] is S.STAGED
    assert holds(world, "d1")
    _approve(world, rollout)
    world.fleet["d0"].behaviour = "good"
    world.run(rollout, R.SUCCEEDED)


def _approve(world: World, rollout: str) -> None:
    view = world.view(rollout)
    assert view.plan is not None
    world.rollouts.approve(rollout, Approval(plan=view.plan, revision=view.revision), None, "bob", world.now)
    world.tick()


def test_a_device_that_committed_before_it_heard_of_the_pause_stays_committed(world: World) -> None:
    rollout = committed_as_it_was_paused(world, "d0")
    assert world.states(rollout) == {"d0": S.COMMITTED, "d1": S.PROBATION, "d2": S.PROBATION}
    world.command(rollout, Command.RESUME)
    assert not holds(world, "d0"), "it would be held when it has to be installed anew"


def test_a_silent_device_is_held_and_let_go_too(world: World) -> None:
    world.add(*NAMES, behaviour="silent")
    rollout = world.start(waves=AT_ONCE)
    world.tick(3700)
    assert set(world.states(rollout).values()) == {S.TIMED_OUT}
    assert (world.state(rollout), holds(world)) == (R.PAUSED, True)
    world.fleet["d0"].behaviour = "good"
    world.answer("d0")
    assert world.states(rollout)["d0"] is S.TIMED_OUT
    world.command(rollout, Command.RESUME)
    world.answer("d0")
    assert world.states(rollout)["d0"] is S.COMMITTED_LATE


@pytest.mark.parametrize("expires", [False, True], ids=["aborted", "expired"])
def test_an_abort_or_the_end_of_its_validity_lets_those_that_switched_end_their_probation(
    world: World, expires: bool
) -> None:
    rollout = paused(world)
    if expires:
        world.tick(31 * 86400.0)
    else:
        world.command(rollout, Command.ABORT)
    assert not holds(world)
    view = world.run(rollout, R.COMPLETED_WITH_EXCEPTIONS if expires else R.ABORTED)
    assert view.counts == {S.COMMITTED: 3}


def test_a_rollback_takes_back_who_is_held_and_nobody_commits_before_it_is_told_to_go_back(world: World) -> None:
    rollout = paused(world, rollback=RollbackSpec(rate=Rate(devices_per_minute=6)))
    world.command(rollout, Command.ROLLBACK)
    told = [name for name in NAMES if world.wants(name) == "1.0.0"]
    assert len(told) == 1
    assert all(holds(world, name) is (name not in told) for name in NAMES)
    world.run(rollout, R.ROLLED_BACK)
    assert {world.wants(name) for name in NAMES} == {"1.0.0"}
    assert not any(holds(world, name) for name in NAMES)


def test_an_aborted_rollback_lets_go_who_was_not_told_to_go_back(world: World) -> None:
    rollout = paused(world, rollback=RollbackSpec(rate=Rate(devices_per_minute=6)))
    world.command(rollout, Command.ROLLBACK)
    told = [name for name in NAMES if world.wants(name) == "1.0.0"]
    world.command(rollout, Command.ABORT)
    assert [world.wants(name) for name in NAMES] == ["1.0.0" if name in told else "2.0.0" for name in NAMES]
    assert not any(holds(world, name) for name in NAMES)


def test_a_deleted_rollout_holds_nobody_who_is_held_returns_to_its_last_good_version(world: World) -> None:
    world.add(*NAMES)
    world.fleet["d0"].behaviour = "failing"
    rollout = world.start(waves=AT_ONCE, requires_approval=True)
    _approve(world, rollout)
    world.answer("d0")
    world.tick()
    world.command(rollout, Command.RETRY, devices=("d0",))
    view = world.view(rollout)
    assert view.plan is not None
    deny = Approval(plan=view.plan, revision=view.revision, approve=False)
    world.rollouts.approve(rollout, deny, None, "bob", world.now)
    assert holds(world, "d1")
    delete = CommandBody(command=Command.DELETE, revision=world.view(rollout).revision)
    world.rollouts.command(rollout, delete, None, "alice", world.now)
    assert {world.wants(name) for name in NAMES} == {"1.0.0"}
    assert not any(holds(world, name) for name in NAMES)


def test_a_last_good_version_is_remembered_without_the_hold_of_the_rollout_that_brought_it(world: World) -> None:
    committed_as_it_was_paused(world, "d0")
    assert holds(world, "d0")
    later = world.start(version="3.0.0", waves=AT_ONCE)
    world.command(later, Command.ABORT)
    world.run(later, R.ABORTED)
    assert (world.wants("d0"), holds(world, "d0")) == ("2.0.0", False)


def test_who_resumes_without_a_lost_device_goes_on_until_another_is_lost(world: World) -> None:
    world.add(*NAMES, behaviour="failing")
    gate = quick().gate.model_copy(update={"max_failed_pct": 100, "min_committed_pct": 0})
    rollout = world.start(waves=AT_ONCE, gate=gate, rate=Rate(max_unavailable=1))
    for offered in (1, 2):
        (name,) = (name for name, state in world.states(rollout).items() if state is S.OFFERED)
        world.answer(name)
        world.offline(name)
        world.now += timedelta(seconds=700)
        for other in NAMES:
            if world.fleet[other].online:
                world.back(other)
        world.tick()
        view = world.view(rollout)
        assert (view.state, view.reason.code) == (R.PAUSED, ReasonCode.UNAVAILABLE_BUDGET)
        assert "1 device;" in view.reason.text
        assert "resume to go on without" in view.reason.text
        assert world.command(rollout, Command.RESUME).state is R.RUNNING
        counts = world.view(rollout).counts
        assert (counts[S.OFFERED], counts[S.ROLLED_BACK]) == (1, offered)
