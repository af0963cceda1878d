"""A transaction that was in another one's way is everyday life: told as such, counted, and done again."""

from __future__ import annotations

import logging

import pytest

from registry.contracts.rollout.states import RolloutState
from registry.errors import BusyError, InTheWayError, RegistryError
from registry.server.composition import Waker
from registry.server.fleet_metrics import database_metrics
from tests.integration.registry.rollouts.world import World

FAULTS = [(InTheWayError("faster"), [logging.INFO]), (BusyError("away"), [])]
"""What is said of each: of a database that is away, it is said once, where that is found."""


@pytest.mark.parametrize(("fault", "levels"), FAULTS)
def test_a_rollout_whose_look_another_process_was_in_the_way_of_is_no_warning(
    world: World,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fault: RegistryError,
    levels: list[int],
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise fault

    world.add("d0")
    rollout = world.start()
    with caplog.at_level(logging.INFO, "registry"), monkeypatch.context() as patch:
        patch.setattr(world.ticker, "look", fails)
        world.ticker.tick(world.now)
    said = [(record.levelno, fault.message in record.getMessage()) for record in caplog.records]
    assert said == [(level, True) for level in levels]
    world.run(rollout, RolloutState.SUCCEEDED)


@pytest.mark.parametrize(("fault", "levels"), FAULTS)
def test_a_step_that_another_process_was_in_the_way_of_is_no_warning(
    caplog: pytest.LogCaptureFixture, fault: RegistryError, levels: list[int]
) -> None:
    waker = Waker()

    def step(_: object) -> None:
        waker.stop()
        raise fault

    waker.wake()
    with caplog.at_level(logging.INFO, "registry"):
        waker.run(step)
    assert [record.levelno for record in caplog.records] == levels


def test_conflicts_are_in_the_metrics(world: World) -> None:
    world.database.conflicts = 3
    figures = {metric.name: metric.samples for metric in database_metrics(world.database)}
    assert [sample.value for sample in figures["modelfleet_database_conflicts"]] == [3]
