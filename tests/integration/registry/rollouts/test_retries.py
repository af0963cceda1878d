"""A rollout tries failed devices again by itself, as its spec says: which codes, how often, with what pauses."""

from __future__ import annotations

from registry.contracts.rollout.spec import RetryRule, WaveSpec
from registry.contracts.rollout.states import Command
from tests.integration.registry.rollouts.world import R, S, World

NAMES = ("d0", "d1")
AT_ONCE = (WaveSpec(percent=100, min_committed=2),)
TWICE = (RetryRule(codes=("golden_mismatch",), times=2, pause_s=100, factor=3, max_pause_s=250),)


def test_a_device_that_fails_for_a_while_gets_there_without_anybody_asking(world: World) -> None:
    world.add(*NAMES)
    world.fleet["d0"].behaviour = "failing"
    rollout = world.start(waves=AT_ONCE, retries=TWICE)
    assert "golden_mismatch, up to 2 times" in world.rollouts.plan(rollout, world.now).retries[0]
    world.answer()
    first = world.desired("d0").models["lenet"].attempt
    world.tick()
    waiting = world.rollouts.device(rollout, "d0", world.now)
    assert (waiting.state, waiting.tries, waiting.code) == (S.PLANNED, 1, "golden_mismatch")
    assert waiting.retry_at is not None
    assert "golden_mismatch" in waiting.why
    assert waiting.retry_at.isoformat(timespec="seconds") in waiting.why
    world.tick(90)
    assert world.desired("d0").models["lenet"].attempt == first  # its pause is not over
    world.fleet["d0"].behaviour = "good"
    world.tick(20)
    assert world.desired("d0").models["lenet"].attempt > first
    world.run(rollout, R.SUCCEEDED)
    done = world.rollouts.device(rollout, "d0", world.now)
    assert (done.state, done.tries, done.previous) == (S.COMMITTED, 1, "1.0.0")
    assert [step.state for step in done.history].count(S.ROLLED_BACK) == 1


def test_when_the_tries_are_used_up_the_failure_counts(world: World) -> None:
    world.add(*NAMES)
    world.fleet["d0"].behaviour = "failing"
    rollout = world.start(waves=AT_ONCE, retries=TWICE)
    pauses = []
    for _ in range(12):
        world.answer()
        world.tick()
        action = world.rollouts.device(rollout, "d0", world.now)
        if action.state is S.PLANNED and action.retry_at is not None:
            pauses.append(round((action.retry_at - world.now).total_seconds(), -1))
            world.tick(260)
    assert pauses == [100, 250]
    ended = world.rollouts.device(rollout, "d0", world.now)
    assert (ended.state, ended.tries) == (S.ROLLED_BACK, 2)
    assert world.state(rollout) is R.PAUSED
    world.fleet["d0"].behaviour = "good"
    world.command(rollout, Command.RETRY)
    world.run(rollout, R.SUCCEEDED)
    assert world.rollouts.device(rollout, "d0", world.now).tries == 0  # a person's retry begins anew


def test_a_failure_of_another_code_counts_at_once(world: World) -> None:
    world.add(*NAMES)
    world.fleet["d0"].behaviour = "failing"
    rollout = world.start(waves=AT_ONCE, retries=(RetryRule(codes=("load_failed",)),))
    world.answer()
    world.tick()
    assert world.states(rollout)["d0"] is S.ROLLED_BACK
    assert world.state(rollout) is R.PAUSED


def test_what_a_rollout_put_there_is_named_by_it_after_it_ended(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start(waves=AT_ONCE)
    world.run(rollout, R.SUCCEEDED)
    world.tick(3600)
    assert {world.desired(name).models["lenet"].rollout for name in NAMES} == {rollout}
