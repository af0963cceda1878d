"""A version that was yanked gets to no further device; one that a rollout took back is no longer the newest."""

from __future__ import annotations

import pytest

from registry.contracts.api.devices import Deployment
from registry.contracts.api.events import EventQuery, EventSource
from registry.contracts.api.versions import ModelView, TakenBack, VersionView
from registry.contracts.codes import ReasonCode
from registry.contracts.rollout.spec import OnFailure
from registry.contracts.rollout.states import Command
from registry.contracts.rollout.views import Approval, CommandBody
from registry.errors import YankedError
from registry.services.catalogue.models import Aliases, Models
from registry.services.catalogue.versions import Versions
from registry.services.catalogue.yanking import Yanking
from registry.services.fleet.events import FleetEvents
from tests.integration.registry.rollouts.world import R, S, World, quick

NAMES = ("d0", "d1", "d2")
WHY = "reads 7 as 1"


def yank(world: World, version: str = "2.0.0") -> None:
    Yanking(world.database).yank("lenet", version, WHY, "alice", world.now)


def model(world: World) -> ModelView:
    return Models(world.database).get("lenet")


def version(world: World, name: str = "2.0.0") -> VersionView:
    return Versions(world.database, None).get("lenet", name)  # type: ignore[arg-type]  # no blob is read


def newest(world: World) -> str | None:
    latest = model(world).latest
    return latest.version if latest is not None else None


def test_a_yank_says_who_when_why_and_who_has_the_version(world: World) -> None:
    world.add("d0", version="2.0.0")
    answer = Yanking(world.database).yank("lenet", "2.0.0", WHY, "alice", world.now)
    assert answer.devices == 1
    yanked = version(world).yanked
    assert yanked is not None
    assert (yanked.at, yanked.by, yanked.reason) == (world.now, "alice", WHY)
    assert Yanking(world.database).undo("lenet", "2.0.0", "bob", world.now).version.yanked is None


def test_a_second_reason_is_told_beside_the_first_and_both_stay_in_the_events(world: World) -> None:
    yanking, events = Yanking(world.database), FleetEvents(world.database)
    assert yanking.yank("lenet", "2.0.0", WHY, "alice", world.now).replaced is None
    assert yanking.yank("lenet", "2.0.0", WHY, "bob", world.now).replaced is None, "the same again changes nothing"
    replaced = yanking.yank("lenet", "2.0.0", "leaks memory", "bob", world.now).replaced
    assert replaced is not None
    assert (replaced.by, replaced.reason) == ("alice", WHY)
    yanking.undo("lenet", "2.0.0", "carol", world.now)
    told = events.page(EventQuery(source=EventSource.PERSON, model="lenet"), None, 10).items
    assert [(each.kind, each.by, each.message, each.before) for each in told] == [
        ("yank_undone", "carol", "", "leaks memory"),
        ("yanked", "bob", "leaks memory", WHY),
        ("yanked", "alice", WHY, ""),
    ]


def test_nobody_gets_a_yanked_version_anew_and_who_has_it_goes_on(world: World) -> None:
    world.add("d0", version="2.0.0")
    world.add("d1")
    yank(world)
    with pytest.raises(YankedError, match=f"yanked by alice at .*: {WHY}"):
        world.deploy("d1", "2.0.0")
    with pytest.raises(YankedError):
        world.rollouts.create(quick(), None, "alice", world.now)
    with pytest.raises(YankedError):
        world.rollouts.plan_only(quick(), world.now)
    with pytest.raises(YankedError):
        Aliases(world.database).move("lenet", "stable", "2.0.0", seen=None, by="alice", now=world.now)
    assert (world.wants("d0"), world.wants("d1")) == ("2.0.0", "1.0.0")
    world.deployments.put("d0", "lenet", Deployment(version="2.0.0", retry=True), "alice", world.now)
    Yanking(world.database).undo("lenet", "2.0.0", "alice", world.now)
    world.deploy("d1", "2.0.0")
    assert world.wants("d1") == "2.0.0"


def test_an_alias_that_points_to_a_yanked_version_deploys_nothing(world: World) -> None:
    world.add("d0")
    Aliases(world.database).move("lenet", "stable", "2.0.0", seen=None, by="alice", now=world.now)
    yank(world)
    with pytest.raises(YankedError):
        world.deploy("d0", "stable")


def test_a_rollout_that_runs_is_paused_and_offers_it_to_nobody_more(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start()
    world.answer()
    yank(world)
    world.tick(3600)
    view = world.view(rollout)
    assert (view.state, view.reason.code) == (R.PAUSED, ReasonCode.YANKED)
    assert WHY in view.reason.text
    world.answer()
    world.tick(3600)
    assert [world.wants(name) for name in NAMES].count("2.0.0") == 1
    with pytest.raises(YankedError, match="what can be done with it: abort, rollback"):
        world.command(rollout, Command.RESUME)
    world.command(rollout, Command.ROLLBACK)
    world.run(rollout, R.ROLLED_BACK)
    with pytest.raises(YankedError, match="what can be done with it: delete"):
        world.command(rollout, Command.RETRY)
    assert {world.wants(name) for name in NAMES} == {"1.0.0"}


def test_a_rollout_that_was_made_before_the_yank_is_neither_submitted_nor_approved(world: World) -> None:
    world.add(*NAMES)
    draft = world.rollouts.create(quick(), None, "alice", world.now)
    planned = world.rollouts.create(quick(requires_approval=True), None, "alice", world.now)
    world.command(planned.id, Command.SUBMIT)
    plan = world.view(planned.id)
    assert plan.plan is not None
    yank(world)
    with pytest.raises(YankedError):
        world.command(draft.id, Command.SUBMIT)
    approval = Approval(plan=plan.plan, revision=plan.revision)
    with pytest.raises(YankedError):
        world.rollouts.approve(planned.id, approval, None, "bob", world.now)
    denial = approval.model_copy(update={"approve": False})
    assert world.rollouts.approve(planned.id, denial, None, "bob", world.now).state is R.DENIED


def test_a_rollout_that_was_scheduled_before_the_yank_is_paused_before_its_first_offer(world: World) -> None:
    world.add(*NAMES)
    made = world.rollouts.create(quick(), None, "alice", world.now)
    view = world.rollouts.get(made.id, world.now)
    assert view.state is R.DRAFT
    body = CommandBody(command=Command.SUBMIT, revision=view.revision)
    world.rollouts.command(made.id, body, None, "alice", world.now)
    yank(world)
    world.tick(60)
    world.tick(60)
    assert world.view(made.id).reason.code is ReasonCode.YANKED
    assert {world.wants(name) for name in NAMES} == {"1.0.0"}


def test_devices_return_to_a_yanked_version_where_it_is_their_last_good_one(world: World) -> None:
    world.add("d0", version="2.0.0", behaviour="slow")
    rollout = world.start(version="3.0.0", waves=quick().waves[1:])
    world.answer()
    yank(world)
    world.command(rollout, Command.ROLLBACK)
    world.fleet["d0"].behaviour = "good"
    world.run(rollout, R.ROLLED_BACK)
    assert world.wants("d0") == "2.0.0"


def test_a_version_that_a_rollout_took_back_is_not_the_newest_until_another_ends_well(world: World) -> None:
    yank(world, "3.0.0")
    assert newest(world) == "2.0.0"
    world.add(*NAMES, behaviour="failing")
    rollout = world.start(on_failure=OnFailure.ROLLBACK)
    view = world.run(rollout, R.ROLLED_BACK)
    back = version(world).taken_back
    assert isinstance(back, TakenBack)
    assert (back.rollout, back.code) == (view.id, ReasonCode.FAILED_BUDGET)
    assert "failed" in back.text
    assert newest(world) == "1.0.0"
    for device in world.fleet.values():
        device.behaviour = "good"
    world.command(rollout, Command.RETRY)
    world.run(rollout, R.SUCCEEDED)
    assert version(world).taken_back is None
    assert newest(world) == "2.0.0"


def test_what_a_person_rolled_back_says_who_and_why_and_the_undo_ends_it(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start()
    world.run(rollout, R.SUCCEEDED)
    world.command(rollout, Command.ROLLBACK, note="too slow in Paris")
    back = version(world).taken_back
    assert back is not None
    assert (back.code, back.text) == (ReasonCode.BY_COMMAND, "rollback by alice: too slow in Paris")
    assert set(world.states(rollout).values()) <= {S.OFFERED, S.PLANNED}
    world.deploy("d0", "2.0.0")
    assert Yanking(world.database).undo("lenet", "2.0.0", "alice", world.now).version.taken_back is None


def test_a_model_whose_every_version_was_withdrawn_has_no_newest(world: World) -> None:
    for name in ("1.0.0", "2.0.0", "3.0.0"):
        yank(world, name)
    assert (model(world).latest, model(world).versions) == (None, 3)
