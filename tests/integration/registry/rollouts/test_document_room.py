"""A device's desired document has a bound. It is the same for one device and for many, and the registry's own changes
of what stands, and what makes the document shorter, are not refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import update

from registry.contracts.device.deployments import DeploymentPolicy, ProbationLimits, ShadowPolicy
from registry.contracts.device.messages import MAX_CONTROL_BYTES, DesiredModel, Profile
from registry.contracts.rollout.states import Command
from registry.contracts.wire import digest_of
from registry.db.rollout_rows import ActionRow
from registry.errors import ConflictError, InvalidError
from registry.services.fleet import desired
from registry.services.fleet.desired import MAX_MODELS, SlotChange, find_device, set_desired, set_many
from tests.integration.registry.rollouts.world import R, World

LONG = DesiredModel(
    version="1" * 64,
    manifest=digest_of(b""),
    variant="v",
    rollout="r" * 36,
    profile=Profile.LATENCY,
    attempt=1_000_000,
    policy=DeploymentPolicy(
        probation_s=1234.5678901234567,
        probation=ProbationLimits(max_error_share=0.12345678901234567, max_latency_ratio=123.45678901234567),
        shadow=ShadowPolicy(share=0.12345678901234567, duration_s=1234.5678901234567, min_agreement=0.123456789012345),
        urgent=True,
    ),
)


MOST = 16 << 10
"""Instead of the bound, which takes hundreds of models and jobs to reach."""
SPARE = MAX_CONTROL_BYTES - desired.MAX_DOCUMENT_BYTES


@pytest.fixture(autouse=True)
def _lower_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desired, "MAX_DOCUMENT_BYTES", MOST)


def slot(number: int) -> str:
    return f"m{number:03}".ljust(64, "x")


def put_one(world: World, device: str, model: str, wanted: DesiredModel | None, *, adapts: bool = False) -> bool:
    """False: it was refused for its length."""
    try:
        with world.database.write() as session:
            row = find_device(session, device)
            set_desired(session, row, model, wanted, "somebody", now=world.now, adapts=adapts)
    except InvalidError as error:
        assert f"{MOST} are the most" in error.message  # noqa: PT017 - the number of it counts, too
        return False
    return True


def put_many(world: World, device: str, model: str, wanted: DesiredModel | None) -> bool:
    with world.database.write() as session:
        changes = [SlotChange(find_device(session, device).id, wanted)]
        return not set_many(session, model, changes, "somebody", world.now)


def test_the_bound_of_a_document_is_the_same_for_one_device_and_for_many(world: World) -> None:
    world.add("d0", "d1", version=None)
    ones = next(number for number in range(MAX_MODELS) if not put_one(world, "d0", slot(number), LONG))
    manys = next(number for number in range(MAX_MODELS) if not put_many(world, "d1", slot(number), LONG))
    assert ones == manys > 10
    full = len(world.desired("d0").canonical())
    assert full <= MOST < full + len(LONG.canonical()) + 100
    assert put_one(world, "d0", slot(0), None)
    assert put_many(world, "d1", slot(0), None)
    assert [len(world.desired(name).models) for name in ("d0", "d1")] == [ones - 1] * 2


def test_the_registry_brings_every_slot_of_a_full_document_in_line(world: World) -> None:
    world.add("d0", version=None)
    count = next(number for number in range(MAX_MODELS) if not put_one(world, "d0", slot(number), LONG))
    update = {"variant": "v" * 64, "record_results": True}
    for number in range(count):
        assert put_one(world, "d0", slot(number), LONG.model_copy(update=update), adapts=True)
    assert MOST < len(world.desired("d0").canonical()) <= MOST + SPARE


@pytest.mark.parametrize("put", [put_one, put_many])
def test_a_document_that_is_too_long_may_become_shorter(
    world: World, put: Callable[[World, str, str, DesiredModel | None], bool]
) -> None:
    world.add("d0", version=None)
    with world.database.write() as session:
        row = find_device(session, "d0")
        for number in range(64):
            set_desired(session, row, slot(number), LONG, "before", now=world.now, adapts=True)
    assert not put(world, "d0", slot(0), LONG.model_copy(update={"variant": "longer"}))
    assert put(world, "d0", slot(0), DesiredModel(version="1", manifest=LONG.manifest))
    assert put(world, "d0", slot(1), None)


def offered_with_no_way_back(world: World) -> str:
    """A rollout of which d0 has an offer; then its document is filled, so that the longer slot has no room."""
    world.add("d0")
    world.fleet["d0"].behaviour = "silent"
    long = world.desired("d0").models["lenet"].model_copy(update={"policy": LONG.policy, "variant": "v" * 64})
    assert put_one(world, "d0", "lenet", long)
    rollout = world.start()
    assert world.wants("d0") == "2.0.0"
    count = next(number for number in range(MAX_MODELS) if not put_one(world, "d0", slot(number), LONG))
    assert any(not put_one(world, "d0", slot(count + number), DesiredModel(version="1", manifest=LONG.manifest))
               for number in range(8))  # fmt: skip
    return rollout


def test_a_way_back_that_has_no_room_is_said_of_the_device(world: World) -> None:
    rollout = offered_with_no_way_back(world)
    world.command(rollout, Command.ABORT)
    world.run(rollout, R.ABORTED)
    assert world.wants("d0") == "2.0.0"
    action = world.rollouts.device(rollout, "d0", world.now)
    assert action.code == "no_room"
    assert "no room for 1.0.0" in action.why
    assert "still wants 2.0.0" in action.history[-1].message


def test_a_rollout_that_holds_a_device_without_room_for_its_way_back_is_not_deleted(world: World) -> None:
    rollout = offered_with_no_way_back(world)
    world.command(rollout, Command.PAUSE)
    world.command(rollout, Command.ABORT)
    view = world.run(rollout, R.ABORTED)
    with world.database.write() as session:
        session.execute(update(ActionRow).values(held=True))
    with pytest.raises(ConflictError, match="still holds 1 device") as refused:
        world.command(rollout, Command.DELETE)
    assert refused.value.errors[0].startswith("d0: its desired state has no room for 1.0.0")
    assert world.view(rollout).state is view.state
