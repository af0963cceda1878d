"""Rollouts from draft to end, with the real services on each database."""

from __future__ import annotations

from datetime import timedelta

import pytest

from registry.contracts.codes import ReasonCode
from registry.contracts.device.deployments import Phase
from registry.contracts.rollout.spec import Hold, OnFailure
from registry.contracts.rollout.states import Command, WaveState
from registry.contracts.rollout.views import Approval, CommandBody
from registry.db.rollout_rows import StepRow
from registry.errors import ConflictError, ForbiddenError, InvalidError, PreconditionError
from registry.services.fleet.retention import forget_steps
from registry.services.rollouts.store import MAX_STEPS
from tests.integration.registry.rollouts.world import START, R, S, World, quick

NAMES = tuple(f"d{number}" for number in range(6))


def test_a_good_version_reaches_everybody_in_waves(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start()
    assert world.state(rollout) is R.RUNNING
    assert sorted(world.states(rollout).values()).count(S.OFFERED) == 1
    view = world.run(rollout, R.SUCCEEDED)
    assert view.counts == {S.COMMITTED: 6}
    assert [wave.state for wave in view.waves[:2]] == [WaveState.PASSED, WaveState.PASSED]
    assert {world.wants(name) for name in NAMES} == {"2.0.0"}
    causes = [entry.cause for _, entry in reversed(world.rollouts.history(rollout, 1 << 40, 100))]
    assert causes == ["create", "submit", "planned", "due", "finished"]


def test_a_bad_version_stops_in_its_first_wave_and_everybody_goes_back(world: World) -> None:
    world.add(*NAMES, behaviour="failing")
    rollout = world.start()
    view = world.run(rollout, R.PAUSED)
    assert view.reason.code is ReasonCode.FAILED_BUDGET
    assert view.counts == {S.ROLLED_BACK: 1, S.PLANNED: 5}
    assert view.waves[0].state is WaveState.FAILED
    world.command(rollout, Command.ROLLBACK)
    view = world.run(rollout, R.ROLLED_BACK)
    assert {world.wants(name) for name in NAMES} == {"1.0.0"}


def test_a_bad_version_goes_back_by_itself_where_the_spec_says_so(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start(on_failure=OnFailure.ROLLBACK, waves=quick().waves[1:])
    world.tick()
    for name in NAMES[:4]:
        world.answer(name)
    for name in NAMES[4:]:
        world.fleet[name].behaviour = "failing"
        world.answer(name)
    world.tick()
    assert world.state(rollout) is R.ROLLING_BACK
    view = world.run(rollout, R.ROLLED_BACK)
    assert {world.wants(name) for name in NAMES} == {"1.0.0"}
    assert {device.serving.version for device in world.fleet.values() if device.serving} == {"1.0.0"}
    assert view.generation == 2


def test_a_pause_offers_nothing_more_and_holds_what_has_not_switched(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start()
    (first,) = (name for name, state in world.states(rollout).items() if state is S.OFFERED)
    world.command(rollout, Command.PAUSE)
    assert world.desired(first).models["lenet"].policy.hold
    world.answer()
    world.tick(600)
    assert world.states(rollout)[first] is S.STAGED
    assert sorted(world.states(rollout).values()).count(S.PLANNED) == 5
    assert "resume" in world.rollouts.device(rollout, first, world.now).why
    world.command(rollout, Command.RESUME)
    assert not world.desired(first).models["lenet"].policy.hold
    world.run(rollout, R.SUCCEEDED)


def test_a_pause_without_hold_lets_what_has_begun_finish(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start(hold=Hold.NONE)
    world.command(rollout, Command.PAUSE)
    world.answer()
    world.tick()
    assert world.view(rollout).counts == {S.COMMITTED: 1, S.PLANNED: 5}


def test_abort_returns_who_has_not_switched_and_leaves_who_has(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start(waves=quick().waves[1:])
    world.answer("d0")
    world.command(rollout, Command.ABORT)
    view = world.run(rollout, R.ABORTED)
    assert view.counts == {S.COMMITTED: 1, S.CANCELLED: 5}
    assert [world.wants(name) for name in NAMES] == ["2.0.0"] + ["1.0.0"] * 5
    world.command(rollout, Command.ROLLBACK)
    world.run(rollout, R.ROLLED_BACK)
    assert {world.wants(name) for name in NAMES} == {"1.0.0"}


def test_a_rollback_returns_each_device_to_its_own_last_good_version(world: World) -> None:
    world.add(*NAMES)
    world.deploy("d1", "3.0.0")
    world.answer()
    world.add("fresh")
    world.deployments.remove("fresh", "lenet", "somebody", world.now)
    world.answer()
    rollout = world.start()
    world.run(rollout, R.SUCCEEDED)
    assert world.wants("fresh") == "2.0.0"
    world.command(rollout, Command.ROLLBACK)
    assert world.desired("d0").models["lenet"].policy.urgent
    world.run(rollout, R.ROLLED_BACK)
    assert {name: world.wants(name) for name in ("d0", "d1", "fresh")} == {"d0": "1.0.0", "d1": "3.0.0", "fresh": None}


def test_retry_asks_only_those_that_failed_again(world: World) -> None:
    world.add(*NAMES)
    world.fleet["d3"].behaviour = "failing"
    spec = quick(waves=quick().waves[1:])
    spec = spec.model_copy(
        update={"gate": spec.gate.model_copy(update={"max_failed_pct": 50, "min_committed_pct": 50})}
    )
    rollout = world.start(spec)
    view = world.run(rollout, R.COMPLETED_WITH_EXCEPTIONS)
    assert view.counts == {S.COMMITTED: 5, S.ROLLED_BACK: 1}
    generations = {name: world.desired(name).generation for name in NAMES}
    world.fleet["d3"].behaviour = "good"
    world.command(rollout, Command.RETRY)
    view = world.run(rollout, R.SUCCEEDED)
    assert (view.counts, view.generation) == ({S.COMMITTED: 6}, 2)
    action = world.rollouts.device(rollout, "d3", world.now)
    assert action.attempt > 0
    assert [step.state for step in action.history].count(S.ROLLED_BACK) == 1
    assert all(world.desired(name).generation == generations[name] for name in NAMES if name != "d3")


def test_a_silent_device_is_counted_and_believed_when_it_comes_late(world: World) -> None:
    world.add(*NAMES, behaviour="silent")
    rollout = world.start(hold=Hold.NONE)
    (first,) = (name for name, state in world.states(rollout).items() if state is S.OFFERED)
    world.tick(3700)
    assert world.view(rollout).reason.code is ReasonCode.UNKNOWN_BUDGET
    assert world.states(rollout)[first] is S.TIMED_OUT
    world.fleet[first].behaviour = "good"
    world.answer(first)
    assert world.states(rollout)[first] is S.COMMITTED_LATE


def test_a_device_that_drifts_after_its_commit_is_told_as_regressed(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start()
    world.run(rollout, R.SUCCEEDED)
    old = world.fleet["d0"].serving
    assert old is not None
    world.fleet["d0"].serving = old.model_copy(update={"version": "1.0.0", "manifest": world.publish("1.0.1")})
    world.say("d0")
    assert world.states(rollout)["d0"] is S.REGRESSED


def test_a_plan_is_approved_by_another_person_and_only_as_it_was_read(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start(requires_approval=True)
    view = world.view(rollout)
    assert (view.state, view.reason.code) == (R.AWAITING_APPROVAL, ReasonCode.NEEDS_APPROVAL)
    assert view.plan is not None
    right = Approval(plan=view.plan, revision=view.revision)
    with pytest.raises(ForbiddenError):
        world.rollouts.approve(rollout, right, None, "alice", world.now)
    wrong = Approval(plan="sha256:" + "0" * 64, revision=view.revision)
    with pytest.raises(PreconditionError):
        world.rollouts.approve(rollout, wrong, None, "bob", world.now)
    assert world.rollouts.approve(rollout, right, "key", "bob", world.now).state is R.SCHEDULED
    assert world.rollouts.approve(rollout, right, "key", "bob", world.now).state is R.SCHEDULED
    assert world.run(rollout, R.SUCCEEDED).approved_by == "bob"


def test_a_command_that_comes_again_gets_the_first_answer(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start()
    body = CommandBody(command=Command.PAUSE, revision=world.view(rollout).revision)
    first = world.rollouts.command(rollout, body, "k1", "alice", world.now)
    assert world.rollouts.command(rollout, body, "k1", "alice", world.now) == first
    assert world.view(rollout).revision == first.revision
    with pytest.raises(PreconditionError):
        world.rollouts.command(rollout, body, "k2", "alice", world.now)
    other = CommandBody(command=Command.ABORT, revision=first.revision)
    with pytest.raises(InvalidError):
        world.rollouts.command(rollout, other, "k1", "alice", world.now)
    again = CommandBody(command=Command.PAUSE, revision=first.revision)
    with pytest.raises(ConflictError) as refused:
        world.rollouts.command(rollout, again, None, "alice", world.now)
    assert "resume" in refused.value.errors


def test_apply_makes_a_rollout_once_and_changes_only_a_draft(world: World) -> None:
    world.add(*NAMES)
    view, created = world.rollouts.apply("spring", quick(), "alice", START)
    assert created
    assert world.rollouts.apply("spring", quick(), "alice", START) == (view, False)
    changed, created = world.rollouts.apply("spring", quick(note="more"), "alice", START)
    assert (changed.id, changed.spec.note, created) == (view.id, "more", False)
    world.command("spring", Command.SUBMIT)
    with pytest.raises(ConflictError) as refused:
        world.rollouts.apply("spring", quick(note="else"), "alice", START)
    assert any("note" in line for line in refused.value.errors)
    with pytest.raises(ConflictError):
        world.rollouts.create(quick(name="spring"), None, "alice", START)


def test_a_rollout_that_nobody_would_get_says_so_and_stays_a_draft(world: World) -> None:
    world.add("dark", platform=None)
    rollout = world.start()
    view = world.view(rollout)
    assert (view.state, view.reason.code) == (R.DRAFT, ReasonCode.PLAN_FAILED)
    assert world.rollouts.plan(rollout, world.now).nothing[0].code == "facts_unknown"


def test_steps_are_forgotten_long_after_the_end_and_what_became_of_devices_is_not(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start()
    world.run(rollout, R.SUCCEEDED)
    assert forget_steps(world.database, world.now, 24) == 0
    assert forget_steps(world.database, world.now + timedelta(days=2), 24) > 0
    assert world.rollouts.device(rollout, "d0", world.now).history == ()
    assert world.view(rollout).counts == {S.COMMITTED: 6}


def test_the_event_log_tells_what_happened(world: World) -> None:
    world.add(*NAMES)
    rollout = world.start()
    world.run(rollout, R.SUCCEEDED)
    kinds = [entry.kind for entry in world.log.after(0)]
    assert (kinds.count("device"), kinds.count("rollout")) == (6, 5)
    assert kinds.count("wave") >= 5


def test_of_a_device_that_flaps_only_the_newest_steps_are_kept_and_the_rest_is_counted(world: World) -> None:
    world.add("d0")
    rollout = world.start(waves=quick().waves[1:])
    world.run(rollout, R.SUCCEEDED)
    before = len(world.rollouts.device(rollout, "d0", world.now).history)
    device = world.fleet["d0"]
    serving = device.serving
    for number in range(2 * MAX_STEPS):
        device.serving = None if number % 2 == 0 else serving
        world.say("d0")
    seen = world.rollouts.device(rollout, "d0", world.now)
    assert (len(seen.history), seen.forgotten) == (MAX_STEPS, before + MAX_STEPS)
    assert [step.state for step in seen.history[-2:]] == [S.REGRESSED, S.COMMITTED]
    assert world.count(StepRow) < 2 * MAX_STEPS


def test_a_rollout_whose_validity_ends_takes_back_only_what_has_not_switched_and_lifts_its_holds(world: World) -> None:
    world.add(*NAMES[:3])
    world.add(NAMES[3], behaviour="silent")
    world.fleet["d1"].behaviour = "slow"
    end = world.now + timedelta(hours=1)
    rollout = world.start(waves=quick().waves[1:], valid_until=end)
    world.answer("d0", "d1")
    world.command(rollout, Command.PAUSE)
    world.answer("d2")
    assert world.desired("d2").models["lenet"].policy.hold
    assert world.states(rollout) == {"d0": S.COMMITTED, "d1": S.PROBATION, "d2": S.STAGED, "d3": S.OFFERED}
    world.tick((end - world.now).total_seconds())
    assert world.state(rollout) is R.EXPIRING
    world.fleet["d1"].behaviour = "good"
    view = world.run(rollout, R.COMPLETED_WITH_EXCEPTIONS)
    assert view.reason.code is ReasonCode.EXPIRED
    assert view.counts == {S.COMMITTED: 2, S.CANCELLED: 2}
    wanted = {name: world.desired(name).models["lenet"] for name in NAMES[:4]}
    assert [wanted[name].version for name in NAMES[:4]] == ["2.0.0", "2.0.0", "1.0.0", "1.0.0"]
    assert not any(each.policy.hold for each in wanted.values())


def test_what_a_device_says_again_of_a_step_is_no_further_step(world: World) -> None:
    world.add(*NAMES[:1], behaviour="slow")
    rollout = world.start()
    world.answer()
    device = world.fleet[NAMES[0]]
    assert device.deployment is not None
    for code in ("probation_nan", "probation_nan", "rollback_failed"):
        said = {"phase": Phase.ROLLING_BACK, "code": code, "since": world.now + timedelta(seconds=1)}
        device.deployment = device.deployment.model_copy(update=said)
        world.say(NAMES[0])
    steps = [(step.state, step.code) for step in world.rollouts.device(rollout, NAMES[0], world.now).history]
    assert steps[-2:] == [(S.ROLLING_BACK, "probation_nan"), (S.ROLLING_BACK, "rollback_failed")]
    assert steps.count((S.ROLLING_BACK, "probation_nan")) == 1
