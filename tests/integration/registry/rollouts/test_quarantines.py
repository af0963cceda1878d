"""A device that took a version back takes it only in another attempt: a plan says so, and does not count on it."""

from __future__ import annotations

from registry.contracts.rollout.states import Command
from tests.integration.registry.rollouts.world import R, S, World, quick

NAMES = tuple(f"d{number}" for number in range(4))
AT_ONCE = quick().waves[1:]
LENIENT = quick().gate.model_copy(update={"max_failed_pct": 100, "min_committed_pct": 0})


def gaps(world: World) -> dict[str, tuple[str, ...]]:
    return {gap.code: gap.devices for gap in world.rollouts.plan_only(quick(), world.now).nothing}


def test_a_plan_names_the_devices_that_a_deployment_left_in_quarantine(world: World) -> None:
    world.add(*NAMES)
    world.fleet["d0"].behaviour = "failing"
    world.deploy("d0", "2.0.0")
    world.answer()
    assert gaps(world) == {"quarantined": ("d0",)}
    rollout = world.start(waves=AT_ONCE)
    assert world.states(rollout)["d0"] is S.REJECTED
    assert "retry lifts its quarantine (quarantined: it took" in world.rollouts.device(rollout, "d0", world.now).why
    view = world.run(rollout, R.COMPLETED_WITH_EXCEPTIONS)
    assert view.counts == {S.COMMITTED: 3, S.REJECTED: 1}
    assert view.waves[0].counts == {S.COMMITTED: 3}, "no gate counts it"


def test_a_retry_plans_them_again_in_an_attempt_that_lifts_the_quarantine(world: World) -> None:
    world.add(*NAMES)
    world.fleet["d0"].behaviour = "failing"
    world.deploy("d0", "2.0.0")
    world.answer()
    rollout = world.start(waves=AT_ONCE)
    world.run(rollout, R.COMPLETED_WITH_EXCEPTIONS)
    before = world.desired("d0").models["lenet"].attempt
    world.fleet["d0"].behaviour = "good"
    world.command(rollout, Command.RETRY, devices=("d0",))
    assert world.run(rollout, R.SUCCEEDED).counts == {S.COMMITTED: 4}
    assert world.desired("d0").models["lenet"].attempt > before
    assert gaps(world) == {}


def test_a_plan_names_the_devices_that_took_it_back_in_an_earlier_rollout(world: World) -> None:
    world.add(*NAMES)
    world.fleet["d1"].behaviour = "failing"
    first = world.start(waves=AT_ONCE, gate=LENIENT)
    world.run(first, R.COMPLETED_WITH_EXCEPTIONS)
    world.deploy("d1", "1.0.0")
    world.fleet["d1"].behaviour = "good"
    world.answer()
    assert gaps(world) == {"quarantined": ("d1",)}


def test_a_rollout_that_every_device_has_in_quarantine_is_not_begun(world: World) -> None:
    world.add("d0")
    world.fleet["d0"].behaviour = "failing"
    world.deploy("d0", "2.0.0")
    world.answer()
    view = world.view(world.start(waves=AT_ONCE))
    assert (view.state, view.reason.text) == (R.DRAFT, "no device would get it: 0 serve it already, 1 cannot")
