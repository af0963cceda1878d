"""What is said of the waves of a rollout that is over, or is going back."""

from __future__ import annotations

from datetime import timedelta

from registry.contracts.rollout.spec import Offline
from registry.contracts.rollout.states import Command, WaveState
from tests.integration.registry.rollouts.world import R, World, quick

NAMES = tuple(f"d{number}" for number in range(4))


def test_no_wave_of_a_rollout_that_was_stopped_looks_as_if_it_still_ran(world: World) -> None:
    world.add(*NAMES, behaviour="slow")
    rollout = world.start()
    world.answer()
    states = [[wave.state for wave in world.view(rollout).waves]]
    world.command(rollout, Command.ROLLBACK)
    states.append([wave.state for wave in world.view(rollout).waves])
    world.command(rollout, Command.ABORT)
    states.append([wave.state for wave in world.view(rollout).waves])
    world.run(rollout, R.ABORTED)
    states.append([wave.state for wave in world.view(rollout).waves])
    going, cut, waiting = WaveState.RELEASING, WaveState.INCONCLUSIVE, WaveState.PENDING
    assert states[0] == [going, waiting, waiting]
    assert states[1] == [cut, waiting, waiting, going]
    assert states[2:] == [[cut, waiting, waiting, cut]] * 2


def test_the_tail_of_a_rollout_that_is_over_has_passed(world: World) -> None:
    world.add(*NAMES)
    world.offline(NAMES[0])
    world.now += timedelta(seconds=700)
    rollout = world.start(offline=Offline(grace_s=60, follow_s=86400), waves=quick().waves[1:])
    for _ in range(5):
        world.answer()
        world.tick(60)
    assert world.view(rollout).waves[-1].state is WaveState.RELEASING
    world.back(NAMES[0])
    assert [wave.state for wave in world.run(rollout, R.SUCCEEDED).waves] == [WaveState.PASSED] * 2
