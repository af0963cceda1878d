"""The registry's wall clock is set while a rollout is under way: no duration ends sooner, none lasts longer."""

from __future__ import annotations

from datetime import timedelta

import pytest

from registry.contracts.rollout.spec import WaveSpec
from registry.contracts.rollout.states import WaveState
from registry.core.clock_steps import LEAST_S, ClockSteps
from registry.services.rollouts.planning import Planner
from registry.services.rollouts.ticker import Ticker
from tests.integration.registry.rollouts.world import R, S, World

STEPS = [timedelta(hours=1), timedelta(hours=-1), timedelta(days=7300), timedelta(days=-7300)]
WAVES = (WaveSpec(count=1, soak_s=300), WaveSpec(percent=100, soak_s=10))


class Clocks:
    """The world's time, and a monotonic clock beside it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._base = world.now
        planner = Planner(world.database)
        world.ticker = Ticker(world.database, planner, steady=self.steady)
        world.tick()

    def steady(self) -> float:
        return (self._world.now - self._base).total_seconds()

    def set(self, by: timedelta) -> None:
        """Only the wall clock moves."""
        self._world.now += by
        self._base += by


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_a_soak_lasts_as_long_as_it_should(world: World, step: timedelta) -> None:
    clocks = Clocks(world)
    world.add("d0", "d1")
    rollout = world.start(waves=WAVES)
    for _ in range(3):
        world.answer()
        world.tick(1)
    assert world.view(rollout).waves[0].state is WaveState.SOAKING
    clocks.set(step)
    world.tick(1)
    world.tick(250)
    assert world.view(rollout).waves[0].state is WaveState.SOAKING
    assert world.state(rollout) is R.RUNNING
    world.tick(60)
    assert world.view(rollout).waves[0].state is WaveState.PASSED


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_a_device_that_works_on_it_is_not_given_up(world: World, step: timedelta) -> None:
    clocks = Clocks(world)
    world.add("d0", behaviour="slow")
    rollout = world.start(waves=(WaveSpec(percent=100),))
    for _ in range(3):
        world.answer()
        world.tick(1)
    before = world.states(rollout)
    assert before["d0"] in (S.PROBATION, S.OFFERED, S.SWITCHING)
    clocks.set(step)
    world.tick(1)
    assert world.states(rollout) == before
    assert world.state(rollout) is R.RUNNING


def test_small_differences_are_no_step() -> None:
    clocks = ClockSteps()
    assert clocks.moved(1000.0, 10.0) == 0
    assert clocks.moved(1001.0 + LEAST_S / 2, 11.0) == 0
    assert clocks.moved(1002.0, 12.0) == 0
    assert clocks.moved(4602.0, 12.0) == 3600
    assert clocks.moved(4603.0, 13.0) == 0
    assert clocks.moved(1003.0, 13.0) == -3600
