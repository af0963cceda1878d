"""Devices that somebody else took are no rollout's any more: its rollback and retry leave them alone, and say so."""

from __future__ import annotations

import pytest

from registry.contracts.rollout.states import Command
from registry.errors import ConflictError
from tests.integration.registry.rollouts.world import R, S, World, quick

NAMES = tuple(f"d{number}" for number in range(4))
AT_ONCE = quick().waves[1:]
LENIENT = quick().gate.model_copy(
    update={"max_failed_pct": 100, "max_failed_abs": None, "max_unknown_pct": 100, "min_committed_pct": 0}
)


def taken_and_back(world: World) -> str:
    """Three of four failed; a later rollout took two of these and was rolled back."""
    world.add(*NAMES, behaviour="failing")
    world.fleet["d3"].behaviour = "good"
    first = world.start(waves=AT_ONCE, name="first", gate=LENIENT)
    world.run(first, R.COMPLETED_WITH_EXCEPTIONS)
    for name in NAMES:
        world.fleet[name].behaviour = "good"
    fleet = quick().fleet.model_copy(update={"selector": "", "devices": ("d0", "d1")})
    second = world.start(version="3.0.0", waves=AT_ONCE, name="second", fleet=fleet)
    world.run(second, R.SUCCEEDED)
    world.command(second, Command.ROLLBACK)
    world.run(second, R.ROLLED_BACK)
    return first


def test_a_retry_names_the_devices_that_another_rollout_took_and_supersedes_them(world: World) -> None:
    first = taken_and_back(world)
    said = world.command(first, Command.RETRY).reason.text
    assert "left out: d0 (rollout second of 3.0.0 took it), d1 (rollout second of 3.0.0 took it)" in said
    states = world.states(first)
    assert [states["d0"], states["d1"]] == [S.SUPERSEDED, S.SUPERSEDED]
    world.run(first, R.COMPLETED_WITH_EXCEPTIONS)
    assert {name: world.wants(name) for name in NAMES} == {"d0": "1.0.0", "d1": "1.0.0", "d2": "2.0.0", "d3": "2.0.0"}
    history = [entry.reason.text for _, entry in world.rollouts.history(first, 10**9, 100)]
    assert any("left out: d0" in text for text in history)


def test_a_retry_of_a_device_that_cannot_be_retried_is_refused_with_the_reason(world: World) -> None:
    first = taken_and_back(world)
    for name, why in (("d0", "rollout second of 3.0.0 took it"), ("d3", "it is committed"), ("no", "no such device")):
        with pytest.raises(ConflictError, match=rf"{name} \(.*{why}"):
            world.command(first, Command.RETRY, devices=(name,))


def test_why_says_who_took_a_device_where_it_would_advise_a_retry(world: World) -> None:
    first = taken_and_back(world)
    why = world.rollouts.device(first, "d0", world.now).why
    assert "it was rolled_back; then rollout second of 3.0.0 took it, so a retry leaves it alone" in why
    assert "then retry" in world.rollouts.device(first, "d2", world.now).why
    world.command(first, Command.RETRY)
    why = world.rollouts.device(first, "d0", world.now).why
    assert "another version is wanted from this device by now: rollout second of 3.0.0 took it; since" in why


def test_why_says_that_a_device_is_offline_and_by_when_it_counts_as_silent(world: World) -> None:
    world.add(*NAMES, behaviour="silent")
    rollout = world.start(waves=AT_ONCE)
    went = world.now
    world.offline("d0")
    due = world.rollouts.device(rollout, "d1", world.now).due
    assert due is not None
    silent = f"unless it reports, it counts as silent at {due.isoformat(timespec='seconds')}"
    away, there = (world.rollouts.device(rollout, name, world.now).why for name in ("d0", "d1"))
    assert silent in there
    assert "offline" not in there
    assert f"it is offline since {went.isoformat(timespec='seconds')}" in away


def test_a_device_that_a_newer_rollout_takes_names_it(world: World) -> None:
    world.add(*NAMES, behaviour="silent")
    older = world.start(waves=AT_ONCE)
    world.start(version="3.0.0", waves=AT_ONCE, name="newer")
    assert "by now: rollout newer of 3.0.0 took it" in world.rollouts.device(older, "d0", world.now).why


def test_a_rollback_supersedes_what_others_took_and_does_not_say_that_these_are_back(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start(waves=AT_ONCE)
    world.run(rollout, R.SUCCEEDED)
    fleet = quick().fleet.model_copy(update={"selector": "", "devices": ("d0",)})
    world.run(world.start(version="3.0.0", waves=AT_ONCE, name="newer", fleet=fleet), R.SUCCEEDED)
    world.deploy("d1", "3.0.0")
    world.deployments.remove("d2", "lenet", "somebody", world.now)
    world.command(rollout, Command.ROLLBACK)
    view = world.run(rollout, R.ROLLED_BACK)
    assert view.reason.text == "every device serves what it served before, but for 3 devices that others took since"
    assert view.counts == {S.SUPERSEDED: 3, S.COMMITTED: 1}
    told = [world.rollouts.device(rollout, name, world.now).message for name in ("d0", "d1", "d2")]
    assert told == [
        "rollout newer of 3.0.0 took it",
        "a deployment by somebody took it",
        "whoever removed the model from it took it",
    ]
