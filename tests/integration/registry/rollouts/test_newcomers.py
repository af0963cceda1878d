"""Devices that begin to match while a rollout runs: who joins, who does not, and what a person has asked for wins."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from registry.contracts.rollout.spec import Fleet
from registry.contracts.rollout.views import Approval
from registry.errors import ForbiddenError
from tests.integration.registry.rollouts.world import FACTS, SLOW, R, S, World
from tests.support.host.postgres import Databases

NAMES = tuple(f"d{number}" for number in range(4))


def test_a_device_that_begins_to_match_joins_the_tail_wave(world: World) -> None:
    world.add(*NAMES)
    world.add("new", "elsewhere", site="oslo")
    rollout = world.start(fleet=Fleet(selector="site=paris"))
    world.devices.put("new", {"site": "paris"}, world.now)
    world.tick()
    assert world.rollouts.device(rollout, "new", world.now).wave == 2
    view = world.run(rollout, R.SUCCEEDED)
    assert view.counts == {S.COMMITTED: 5}
    assert world.wants("elsewhere") == "1.0.0"


def test_a_newcomer_that_is_assigned_the_version_counts_as_current_once_it_serves_it(world: World) -> None:
    world.add(*NAMES)
    world.add("assigned", "serving", site="oslo")
    for name in ("assigned", "serving"):
        world.deploy(name, "2.0.0")
    world.answer("serving")
    rollout = world.start(fleet=Fleet(selector="site=paris"))
    for name in ("assigned", "serving"):
        world.devices.put(name, {"site": "paris"}, world.now)
    world.tick()
    assert world.states(rollout)["assigned"] is S.PLANNED
    assert world.states(rollout)["serving"] is S.ALREADY_CURRENT
    assert world.run(rollout, R.SUCCEEDED).counts == {S.COMMITTED: 5, S.ALREADY_CURRENT: 1}


def test_a_newcomer_that_a_person_deployed_to_after_the_plan_stays_as_the_person_wants(world: World) -> None:
    world.add(*NAMES)
    world.add("new", site="oslo")
    rollout = world.start(fleet=Fleet(selector="site=paris"))
    world.now += timedelta(seconds=1)
    world.deploy("new", "3.0.0")
    world.answer()
    world.devices.put("new", {"site": "paris"}, world.now)
    world.tick()
    assert world.run(rollout, R.COMPLETED_WITH_EXCEPTIONS).counts == {S.COMMITTED: 4, S.SUPERSEDED: 1}
    assert world.wants("new") == "3.0.0"
    assert "by now: a deployment by somebody took it" in world.rollouts.device(rollout, "new", world.now).why


def test_facts_that_choose_another_variant_make_no_deployment_newer(world: World) -> None:
    world.publish("1.5.0", arch=("x86_64",))
    world.add(*NAMES, version="1.5.0")
    rollout = world.start()
    waiting = next(name for name, state in world.states(rollout).items() if state is S.PLANNED)
    asked = world.deployments.page(waiting, "", 1)[0].set_at
    world.telemetry.put_facts(waiting, SLOW, world.now)
    found = world.deployments.page(waiting, "", 1)[0]
    assert (found.set_at, found.variant) == (asked, None)
    assert world.run(rollout, R.SUCCEEDED).counts == {S.COMMITTED: 4}


def test_newcomers_stay_out_where_the_spec_says_so(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start(newcomers=False)
    world.add("new", version=None)
    assert world.run(rollout, R.SUCCEEDED).counts == {S.COMMITTED: 4}


def test_newcomers_stay_out_where_two_people_are_asked_for(tmp_path: Path, databases: Databases) -> None:
    world = World(databases.migrated(tmp_path), two_person=True)
    world.add(*NAMES)
    world.add("relabelled", site="oslo")
    rollout = world.start(fleet=Fleet(selector="site=paris"))
    view = world.rollouts.get(rollout, world.now)
    approval = Approval(revision=view.revision, plan=view.plan or "", approve=True)
    with pytest.raises(ForbiddenError, match="Another person"):
        world.rollouts.approve(rollout, approval, None, "alice", world.now)
    world.rollouts.approve(rollout, approval, None, "bob", world.now)
    world.devices.put("relabelled", {"site": "paris"}, world.now)
    world.add("new", version=None)
    assert world.run(rollout, R.SUCCEEDED).counts == {S.COMMITTED: 4}
    world.close()


def test_a_device_whose_facts_come_later_joins_when_they_are_there(world: World) -> None:
    world.add(*NAMES)
    world.add("dark", platform=None)
    rollout = world.start()
    assert world.states(rollout)["dark"] is S.INCOMPATIBLE
    world.telemetry.put_facts("dark", FACTS, world.now)
    assert world.run(rollout, R.SUCCEEDED).counts == {S.COMMITTED: 5}


def test_a_device_that_is_registered_anew_is_another_one_and_joins(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start()
    world.devices.delete("d0", world.now)
    world.tick()
    assert world.states(rollout)["d0"] is S.DECOMMISSIONED
    world.add("d0", version=None)
    assert world.run(rollout, R.SUCCEEDED).counts == {S.COMMITTED: 4}
