"""Planning takes long for a large fleet: it holds up no other rollout, and leaves nothing behind."""

from __future__ import annotations

import threading
from datetime import datetime

from registry.contracts.rollout.spec import Fleet
from registry.contracts.rollout.states import Command
from registry.contracts.rollout.views import CommandBody
from registry.db.rollout_rows import ActionRow, LeaseRow
from tests.integration.registry.rollouts.world import R, S, World, quick

AT_ONCE = quick().waves[1:]


def submit(world: World, **changes: object) -> str:
    """Not yet planned."""
    rollout = world.rollouts.create(quick(waves=AT_ONCE, **changes), None, "alice", world.now)
    body = CommandBody(command=Command.SUBMIT, revision=rollout.revision)
    return world.rollouts.command(rollout.id, body, None, "alice", world.now).id


def test_while_one_rollout_is_planned_another_is_offered_and_paused(world: World) -> None:
    world.add("a", site="paris")
    world.add("b", site="rome")
    other = world.start(fleet=Fleet(selector="site=rome"), requires_approval=True)
    planned = submit(world, fleet=Fleet(selector="site=paris"))
    begun, go_on = threading.Event(), threading.Event()

    def clock() -> datetime:
        """Planning asks for the time as it begins; here it waits for it."""
        begun.set()
        assert go_on.wait(30)
        return world.now

    planning = threading.Thread(target=world.ticker.plan, args=(clock,))
    planning.start()
    try:
        assert begun.wait(30)
        view = world.view(other)
        world.ticker.tick(world.now)
        assert (view.state, world.state(planned)) == (R.AWAITING_APPROVAL, R.PLANNING)
        world.rollouts.command(
            other, CommandBody(command=Command.ABORT, revision=view.revision), None, "bob", world.now
        )
        world.ticker.tick(world.now)
        assert (world.state(other), world.state(planned)) == (R.ABORTED, R.PLANNING)
    finally:
        go_on.set()
        planning.join(30)
    assert world.states(planned) == {"a": S.OFFERED}
    assert world.count(LeaseRow) == 1, "only the leader's: that of the plan is gone"


def test_a_planner_that_is_told_to_stop_leaves_the_plan_to_the_next(world: World) -> None:
    world.add("a")
    rollout = submit(world)
    asked: list[None] = []

    def stop() -> bool:
        """After the plan was worked out and before it is written."""
        asked.append(None)
        return len(asked) > 1

    world.ticker.plan(lambda: world.now, stop)
    assert (world.state(rollout), world.count(ActionRow), world.count(LeaseRow)) == (R.PLANNING, 0, 0)
    world.ticker.plan(lambda: world.now)
    assert world.states(rollout) == {"a": S.OFFERED}
