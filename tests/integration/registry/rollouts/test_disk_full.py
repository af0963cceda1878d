"""A device whose disk is full waits for room and says so; the rollout counts it, and what served before goes on."""

from __future__ import annotations

from registry.contracts.codes import ReasonCode
from registry.contracts.rollout.states import Command
from tests.integration.registry.rollouts.world import R, S, World

NAMES = ("d0", "d1", "d2")


def test_a_full_disk_stops_the_rollout_by_its_budget_and_is_named_as_the_cause(world: World) -> None:
    world.add(*NAMES, behaviour="full")
    rollout = world.start()
    world.answer()
    (first,) = (name for name, state in world.states(rollout).items() if state is S.DOWNLOADING)
    assert "insufficient_disk" in world.rollouts.device(rollout, first, world.now).why
    world.tick(6 * 3600 + 60)
    world.answer()
    view = world.view(rollout)
    assert (view.state, view.reason.code) == (R.PAUSED, ReasonCode.UNKNOWN_BUDGET)
    assert view.counts == {S.TIMED_OUT: 1, S.PLANNED: 2}
    action = world.rollouts.device(rollout, first, world.now)
    assert (action.code, action.failed_in) == ("insufficient_disk", "downloading")
    assert {device.serving.version for device in world.fleet.values() if device.serving} == {"1.0.0"}
    world.fleet[first].behaviour = "good"
    world.command(rollout, Command.RETRY)
    for name in NAMES:
        world.fleet[name].behaviour = "good"
    world.run(rollout, R.SUCCEEDED)
