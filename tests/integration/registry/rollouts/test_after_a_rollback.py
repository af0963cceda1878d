"""What a rollout went back for stays readable: the cause, who was in which wave, what failed on whom, who is back."""

from __future__ import annotations

from registry.contracts.codes import ReasonCode
from registry.contracts.rollout.spec import Gate, OnFailure, WaveSpec
from registry.contracts.rollout.states import Command
from registry.contracts.rollout.views import ActionView, RolloutView
from tests.integration.registry.rollouts.world import R, S, World

GOOD, BAD, SILENT = ("d0", "d1", "d2"), ("d3", "d4"), "d5"


def went_back(world: World) -> RolloutView:
    """Three commit in the first wave; two of the second fail and one is silent; then its gate takes it back."""
    world.add(*GOOD, ring="1")
    world.add(*BAD, behaviour="failing", ring="2")
    world.add(SILENT, behaviour="silent", ring="2")
    waves = (WaveSpec(selector="ring=1", soak_s=10), WaveSpec(percent=100, soak_s=10))
    rollout = world.start(waves=waves, on_failure=OnFailure.ROLLBACK, gate=Gate(health=(), min_attempted=1))
    world.run(rollout, lambda state: state is R.ROLLING_BACK)
    world.fleet[SILENT].behaviour = "good"
    return world.run(rollout, R.ROLLED_BACK)


def devices(world: World, rollout: str, **only: bool | None) -> dict[str, ActionView]:
    found = world.rollouts.devices(rollout, None, None, "", 100, world.now, **only)  # type: ignore[arg-type]
    return {view.device: view for view in found}


def test_the_cause_and_the_counts_by_code_stay(world: World) -> None:
    view = went_back(world)
    assert view.went_back is not None
    assert (view.went_back.code, view.went_back.by) == (ReasonCode.FAILED_BUDGET, "")
    assert "failed" in view.went_back.text
    assert view.reason.text != view.went_back.text
    found = {(each.code, each.state): (each.devices, each.first) for each in view.trouble}
    assert found["golden_mismatch", S.ROLLED_BACK] == (2, "d3")
    assert view.troubled == sum(each.devices for each in view.trouble)


def test_who_is_back_is_told_apart_from_who_committed(world: World) -> None:
    view = went_back(world)
    assert view.back[S.COMMITTED] == view.counts[S.COMMITTED] == len(devices(world, view.id, back=True))
    of = devices(world, view.id)
    assert all(of[name].goes_back for name in GOOD)
    assert {of[name].left.state for name in BAD if of[name].left} == {S.ROLLED_BACK}  # type: ignore[union-attr]
    assert {of[name].left.state for name in GOOD if of[name].left} == {S.COMMITTED}  # type: ignore[union-attr]


def test_the_waves_keep_what_their_devices_were(world: World) -> None:
    view = went_back(world)
    first = view.waves[0]
    assert (first.label, first.counts, first.left) == ("ring=1", {}, {S.COMMITTED: 3})
    assert view.waves[-1].kind == "rollback"
    in_first = world.rollouts.devices(view.id, None, 0, "", 100, world.now)
    assert [each.device for each in in_first] == list(GOOD)


def test_a_rollback_by_a_person_says_who_and_why_and_has_no_trouble(world: World) -> None:
    world.add(*GOOD)
    rollout = world.start()
    world.run(rollout, R.SUCCEEDED)
    world.command(rollout, Command.ROLLBACK, note="d1 looks odd")
    world.run(rollout, R.ROLLED_BACK)
    view = world.view(rollout)
    assert (view.troubled, devices(world, rollout, trouble=True)) == (0, {})
    assert view.went_back is not None
    assert (view.went_back.by, view.went_back.text) == ("alice", "rollback by alice: d1 looks odd")


def test_a_silent_device_that_came_back_with_the_rollback_is_still_trouble(world: World) -> None:
    view = went_back(world)
    trouble = devices(world, view.id, trouble=True)
    assert set(BAD) <= set(trouble)
    assert not set(GOOD) & set(trouble)


def test_a_retry_begins_a_new_account_of_its_devices(world: World) -> None:
    view = went_back(world)
    for device in world.fleet.values():
        device.behaviour = "good"
    world.command(view.id, Command.RETRY)
    after = world.run(view.id, R.SUCCEEDED)
    assert (after.troubled, dict(after.back)) == (0, {})
    assert {each.left for each in devices(world, view.id).values()} == {None}
    assert after.went_back == view.went_back
