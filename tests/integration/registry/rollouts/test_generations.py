"""Rollback and retry are new generations: what they may not take, what they must not forget, how they end."""

from __future__ import annotations

from datetime import timedelta

import pytest

from registry.contracts.api.devices import Deployment
from registry.contracts.codes import ReasonCode
from registry.contracts.device.deployments import DeploymentProgress, Phase
from registry.contracts.device.messages import Event
from registry.contracts.rollout.spec import Offline, Rate, RollbackSpec, WaveSpec
from registry.contracts.rollout.states import Command, WaveState
from registry.contracts.rollout.views import Approval
from registry.core.intake import checked
from registry.errors import ConflictError, ForbiddenError
from tests.integration.registry.rollouts.world import FACTS, SLOW, R, S, World, quick

NAMES = tuple(f"d{number}" for number in range(4))
AT_ONCE = quick().waves[1:]


def test_a_rollback_leaves_devices_alone_that_a_later_rollout_took(world: World) -> None:
    world.add(*NAMES)
    first = world.start(waves=AT_ONCE)
    world.run(first, R.SUCCEEDED)
    second = world.start(version="3.0.0", waves=AT_ONCE)
    world.run(second, R.SUCCEEDED)
    world.command(first, Command.ROLLBACK)
    world.run(first, R.ROLLED_BACK)
    assert {world.wants(name) for name in NAMES} == {"3.0.0"}
    assert set(world.states(second).values()) == {S.COMMITTED}


def test_a_rollback_leaves_devices_alone_that_a_person_took_after_the_end(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start(waves=AT_ONCE)
    world.run(rollout, R.SUCCEEDED)
    world.deploy("d0", "3.0.0")
    world.deployments.remove("d1", "lenet", "somebody", world.now)
    world.command(rollout, Command.ROLLBACK)
    world.run(rollout, R.ROLLED_BACK)
    assert [world.wants(name) for name in NAMES] == ["3.0.0", None, "1.0.0", "1.0.0"]


def test_a_rollback_says_of_its_wave_and_its_devices_that_they_went_back(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start(waves=AT_ONCE)
    world.run(rollout, R.SUCCEEDED)
    world.command(rollout, Command.ROLLBACK)
    view = world.run(rollout, R.ROLLED_BACK)
    assert view.waves[-1].state is WaveState.PASSED
    assert "it is back on 1.0.0; since" in world.rollouts.device(rollout, "d0", world.now).why


def test_a_rollback_that_is_aborted_leaves_no_device_under_way(world: World) -> None:
    world.add(*NAMES)
    back = RollbackSpec(rate=Rate(devices_per_minute=1))
    rollout = world.start(waves=AT_ONCE, rollback=back)
    world.run(rollout, R.SUCCEEDED)
    world.command(rollout, Command.ROLLBACK)
    assert sorted(world.states(rollout).values()) == [S.OFFERED, S.PLANNED, S.PLANNED, S.PLANNED]
    world.command(rollout, Command.ABORT)
    assert world.state(rollout) is R.ABORTED
    assert set(world.states(rollout).values()) == {S.CANCELLED}
    world.command(rollout, Command.ROLLBACK)
    for _ in range(10):
        world.answer()
        world.tick(60)
    assert world.state(rollout) is R.ROLLED_BACK
    assert {world.wants(name) for name in NAMES} == {"1.0.0"}


def test_a_retry_after_a_rollback_asks_also_those_that_had_never_left(world: World) -> None:
    world.add(*NAMES)
    world.add("d4", behaviour="silent")
    rollout = world.start(waves=AT_ONCE)
    world.answer()
    world.command(rollout, Command.ROLLBACK)
    device = world.fleet["d4"]
    device.behaviour, device.generation = "good", world.desired("d4").generation
    world.say("d4")  # it has read it, and serves 1.0.0 from an earlier deployment
    assert world.states(rollout)["d4"] is S.ALREADY_CURRENT
    world.run(rollout, R.ROLLED_BACK)
    world.command(rollout, Command.RETRY)
    world.run(rollout, R.SUCCEEDED)
    assert {world.wants(name) for name in world.fleet} == {"2.0.0"}


def test_another_rollback_is_another_attempt(world: World) -> None:
    """A device that failed on its way back gave that very deployment up: only another one makes it try again."""
    world.add(*NAMES)
    rollout = world.start(waves=AT_ONCE)
    world.run(rollout, R.SUCCEEDED)
    world.command(rollout, Command.ROLLBACK)
    device, wanted = world.fleet["d0"], world.desired("d0").models["lenet"]
    world.answer("d1", "d2", "d3")
    device.generation = world.desired("d0").generation
    device.deployment = DeploymentProgress(
        version=wanted.version, manifest=wanted.manifest, rollout=rollout, attempt=wanted.attempt, phase=Phase.FAILED,
        since=world.now, code="disk_full",
    )  # fmt: skip
    world.say("d0")
    world.tick()
    assert world.state(rollout) is R.ROLLBACK_INCOMPLETE
    world.command(rollout, Command.ROLLBACK)
    world.say("d0")  # what it says is still about the first way back
    assert world.states(rollout)["d0"] is S.OFFERED
    assert world.desired("d0").models["lenet"].attempt > wanted.attempt
    world.run(rollout, R.ROLLED_BACK)


def test_a_retry_that_cannot_be_planned_is_no_draft_and_loses_nobody(world: World) -> None:
    world.add(*NAMES, behaviour="failing")
    world.fleet["d0"].behaviour = "good"
    rollout = world.start(waves=AT_ONCE, gate=quick().gate.model_copy(update={"max_failed_abs": 100}))
    world.answer()
    world.tick()
    assert world.state(rollout) is R.PAUSED
    for name in NAMES[1:]:
        world.devices.delete(name, world.now)
        del world.fleet[name]
    with pytest.raises(ConflictError):  # nobody is left to be tried again
        world.command(rollout, Command.RETRY)
    assert world.state(rollout) is R.PAUSED


def test_a_retry_that_nothing_fits_any_more_waits_for_a_person(world: World) -> None:
    world.publish("4.0.0", arch=("x86_64",))
    world.add(*NAMES)
    world.fleet["d3"].behaviour = "failing"
    rollout = world.start(version="4.0.0", waves=AT_ONCE)
    world.answer()
    world.tick()
    assert world.state(rollout) is R.PAUSED
    world.telemetry.put_facts("d3", SLOW, world.now)
    world.command(rollout, Command.RETRY)
    assert world.state(rollout) is R.PAUSED
    assert "no device would get it" in world.view(rollout).reason.text


def test_a_rollout_that_devices_have_is_not_changed_though_its_retry_was_denied(world: World) -> None:
    world.add(*NAMES)
    world.fleet["d0"].behaviour = "failing"
    spec = quick(name="r", waves=AT_ONCE, requires_approval=True)
    rollout = world.start(spec)
    approve(world, rollout, "bob")
    world.answer()
    world.tick()
    world.command(rollout, Command.RETRY)
    approve(world, rollout, "bob", approve=False)
    assert world.state(rollout) is R.DENIED
    with pytest.raises(ConflictError):
        world.rollouts.apply("r", spec.model_copy(update={"version": "3.0.0"}), "alice", world.now)


def test_who_asks_for_a_retry_does_not_approve_it(world: World) -> None:
    world.add(*NAMES)
    world.fleet["d0"].behaviour = "failing"
    rollout = world.start(waves=AT_ONCE, requires_approval=True)
    approve(world, rollout, "bob")
    world.answer()
    world.tick()
    world.command(rollout, Command.RETRY, by="bob")
    with pytest.raises(ForbiddenError):
        approve(world, rollout, "bob")
    approve(world, rollout, "alice")
    assert world.state(rollout) is R.RUNNING


def test_a_retry_that_waits_for_approval_can_be_rolled_back_and_a_first_plan_cannot(world: World) -> None:
    """Also the device that is to be retried goes back: it was silent, and may have switched since."""
    world.add(*NAMES)
    world.fleet["d0"].behaviour = "silent"
    lenient = {"max_failed_pct": 100.0, "max_unknown_pct": 100.0, "min_committed_pct": 0.0}
    gate = quick().gate.model_copy(update=lenient)
    rollout = world.start(waves=AT_ONCE, requires_approval=True, gate=gate)
    assert Command.ROLLBACK not in world.view(rollout).legal
    with pytest.raises(ConflictError, match="cannot rollback; it can: approve, deny, abort"):
        world.command(rollout, Command.ROLLBACK)
    approve(world, rollout, "bob")
    world.run(rollout, R.COMPLETED_WITH_EXCEPTIONS, rounds=200)
    world.fleet["d0"].behaviour = "good"
    world.command(rollout, Command.RETRY)
    assert (world.state(rollout), world.wants("d0")) == (R.AWAITING_APPROVAL, "2.0.0")
    assert Command.ROLLBACK in world.view(rollout).legal
    world.command(rollout, Command.ROLLBACK)
    world.run(rollout, R.ROLLED_BACK)
    assert {world.wants(name) for name in NAMES} == {"1.0.0"}


def approve(world: World, rollout: str, by: str, *, approve: bool = True) -> None:
    view = world.view(rollout)
    body = Approval(plan=str(view.plan), revision=view.revision, approve=approve)
    world.rollouts.approve(rollout, body, None, by, world.now)
    world.tick()


def test_a_retry_of_an_older_rollout_leaves_what_a_newer_one_brought(world: World) -> None:
    world.add(*NAMES)
    world.fleet["d0"].behaviour = "failing"
    older = world.start(waves=AT_ONCE)
    world.answer()
    world.tick()
    world.fleet["d0"].behaviour = "good"
    newer = world.start(version="3.0.0", waves=AT_ONCE)
    world.run(newer, R.SUCCEEDED)
    with pytest.raises(ConflictError, match="tried again"):
        world.command(older, Command.RETRY)
    assert {world.wants(name) for name in NAMES} == {"3.0.0"}


def test_a_retry_leaves_alone_whom_a_person_took_before_it_was_ever_offered(world: World) -> None:
    world.publish("4.0.0", arch=("x86_64",))
    world.add("d0", "d1")
    world.add("unfit", "person", platform=SLOW)
    rollout = world.start(version="4.0.0", waves=AT_ONCE)
    assert world.states(rollout)["person"] is S.INCOMPATIBLE
    world.fleet["d1"].behaviour = "failing"
    world.now += timedelta(seconds=1)
    world.deploy("person", "3.0.0")
    world.answer()
    world.tick()
    assert world.state(rollout) is R.PAUSED
    for name in ("unfit", "person"):
        world.telemetry.put_facts(name, FACTS, world.now)
    world.fleet["d1"].behaviour = "good"
    world.command(rollout, Command.RETRY)
    world.run(rollout, R.COMPLETED_WITH_EXCEPTIONS)
    assert {name: world.wants(name) for name in world.fleet} == {
        "d0": "4.0.0", "d1": "4.0.0", "unfit": "4.0.0", "person": "3.0.0"
    }  # fmt: skip


def test_a_retry_of_one_device_leaves_accepted_what_a_person_accepted_of_others(world: World) -> None:
    world.add(*NAMES)
    for name in ("d0", "d1"):
        world.fleet[name].behaviour = "failing"
    rollout = world.start(waves=AT_ONCE)
    world.answer()
    world.tick()
    assert world.state(rollout) is R.PAUSED
    world.command(rollout, Command.RESUME, by="bob")
    world.run(rollout, R.COMPLETED_WITH_EXCEPTIONS)
    world.fleet["d0"].behaviour = "good"
    world.command(rollout, Command.RETRY, devices=("d0",))
    view = world.run(rollout, R.COMPLETED_WITH_EXCEPTIONS)
    assert view.counts == {S.COMMITTED: 3, S.ROLLED_BACK: 1}
    assert view.waves[0].accepted_by == "bob"


def test_a_retry_of_all_that_was_accepted_is_judged_anew(world: World) -> None:
    world.add(*NAMES)
    world.fleet["d0"].behaviour = "failing"
    rollout = world.start(waves=AT_ONCE)
    world.answer()
    world.tick()
    world.command(rollout, Command.RESUME, by="bob")
    world.run(rollout, R.COMPLETED_WITH_EXCEPTIONS)
    world.command(rollout, Command.RETRY)
    assert world.run(rollout, R.PAUSED).reason.code is ReasonCode.FAILED_BUDGET


def test_the_attempt_of_a_retry_is_above_all_that_the_device_was_ever_told(world: World) -> None:
    """One that a person's retry was given up in would be refused once more."""
    world.add(*NAMES)
    world.deployments.put("d0", "lenet", Deployment(version="2.0.0", retry=True), "somebody", world.now)
    by_hand = world.desired("d0").models["lenet"].attempt
    world.fleet["d0"].behaviour = "failing"
    rollout = world.start(waves=AT_ONCE)
    world.answer()
    world.tick()
    assert world.state(rollout) is R.PAUSED
    world.command(rollout, Command.RETRY)
    assert world.states(rollout)["d0"] is S.OFFERED
    assert world.desired("d0").models["lenet"].attempt > by_hand > 1


def test_the_way_back_to_what_a_persons_retry_brought_is_a_higher_attempt(world: World) -> None:
    world.add(*NAMES)
    world.deployments.put("d0", "lenet", Deployment(version="1.0.0", retry=True), "somebody", world.now)
    by_hand = world.desired("d0").models["lenet"].attempt
    world.answer()
    rollout = world.start(waves=AT_ONCE)
    world.run(rollout, R.SUCCEEDED)
    world.command(rollout, Command.ROLLBACK)
    wanted = world.desired("d0").models["lenet"]
    assert (wanted.version, wanted.attempt > by_hand) == ("1.0.0", True)
    world.run(rollout, R.ROLLED_BACK)


def test_who_is_back_after_a_newer_rollout_began_gets_the_newer_version(world: World) -> None:
    world.add(*NAMES)
    world.offline("d3")
    world.now += timedelta(seconds=700)
    offline = Offline(grace_s=60, follow_s=86400)
    older = world.start(offline=offline, waves=AT_ONCE)  # a first wave of d3 alone would have nobody to judge it by
    for _ in range(5):
        world.answer()
        world.tick(60)
    assert world.view(older).counts == {S.COMMITTED: 3, S.EXCLUDED: 1}
    waves = (WaveSpec(count=1, soak_s=3600), WaveSpec(percent=100, soak_s=10))
    newer = world.start(version="3.0.0", offline=offline, waves=waves, name="newer")
    assert [world.states(each)["d3"] for each in (older, newer)] == [S.EXCLUDED, S.PLANNED]
    world.back("d3")
    world.add("late", version=None)
    world.run(newer, R.SUCCEEDED, rounds=100)
    assert {world.wants(name) for name in world.fleet} == {"3.0.0"}
    assert world.states(older)["d3"] is S.SUPERSEDED
    assert "rollout newer of 3.0.0 took it" in world.rollouts.device(older, "d3", world.now).why


def test_who_commits_while_it_waits_for_its_way_back_is_still_told_to_go_back(world: World) -> None:
    world.add(*NAMES, behaviour="slow")
    rollout = world.start(waves=AT_ONCE, rollback=RollbackSpec(rate=Rate(devices_per_minute=1)))
    world.answer()
    world.command(rollout, Command.ROLLBACK)
    for name in NAMES:
        wanted, device = world.desired(name).models["lenet"], world.fleet[name]
        if wanted.version == "2.0.0":  # not its turn yet: what it was offered goes on, and is told as an event
            told = Event(kind="deployment", model="lenet", version="2.0.0", rollout=rollout, phase="committed",
                         event_id=f"e-{name}", seq=1, generation=device.generation, at=world.now)  # fmt: skip
            world.telemetry.take([checked(name, told, world.now)])
        device.behaviour = "good"
    assert sorted(world.states(rollout).values()) == [S.OFFERED, S.PLANNED, S.PLANNED, S.PLANNED]
    world.run(rollout, R.ROLLED_BACK)
    assert {world.wants(name) for name in NAMES} == {"1.0.0"}
