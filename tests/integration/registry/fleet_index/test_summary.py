"""The fleet in figures."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import insert

from registry.contracts.api.fleet import VersionCount
from registry.contracts.wire import digest_of
from registry.db.catalog_rows import BlobRow
from registry.services.fleet.summary import FleetFigures, count_fleet
from tests.integration.registry.rollouts.world import SLOW, World


def test_the_figures_are_those_of_the_fleet(world: World) -> None:
    world.presence.listen(world.now)
    world.add("a", "b")
    world.add("slow", platform=SLOW)
    world.add("bad", behaviour="full")
    world.devices.put("new", {}, world.now)
    world.offline("b")
    world.deploy("bad", "2.0.0")
    world.answer("bad")
    with world.database.write() as session:
        session.execute(insert(BlobRow).values(digest=digest_of(b"1"), size=1 << 40, used_at=world.now))
        session.execute(insert(BlobRow).values(digest=digest_of(b"2"), size=5, used_at=world.now, damaged_at=world.now))
    with world.database.read() as session:
        found = count_fleet(session, world.now)
    assert found.devices == 5
    assert {state.value: number for state, number in found.connection.items() if number} == {
        "online": 3, "offline": 1, "never_seen": 1,
    }  # fmt: skip
    assert sum(found.serving.values()) == 5
    assert {state.value: number for state, number in found.serving.items() if number} == {
        "serving": 3, "downloading": 1, "idle": 1,
    }  # fmt: skip
    assert found.behind == 1
    assert found.failing == {}
    x86 = VersionCount(
        model="lenet", version="1.0.0", desired="1.0.0", state="serving", hardware="x86_64/cpu", devices=2
    )
    assert found.versions[0] == x86
    assert {(each.hardware, each.state, each.devices) for each in found.versions} >= {("aarch64/cpu", "serving", 1)}
    assert (found.storage.blobs, found.storage.bytes, found.storage.damaged) == (2, (1 << 40) + 5, 1)
    assert found.as_of == world.now


def test_rollouts_are_counted_by_state(world: World) -> None:
    world.presence.listen(world.now)
    world.add("a", "b")
    world.start()
    with world.database.read() as session:
        assert count_fleet(session, world.now).rollouts == {"running": 1}


def test_a_copy_serves_for_a_moment_and_says_when_it_was_counted(world: World) -> None:
    world.presence.listen(world.now)
    figures = FleetFigures(world.database)
    first = figures.summary(world.now)
    figures._good_until = float("inf")
    world.devices.put("new", {}, world.now)
    assert figures.summary(world.now + timedelta(seconds=1)) is first
    figures._good_until = 0.0
    later = figures.summary(world.now + timedelta(seconds=2))
    assert (later.devices, later.as_of) == (1, world.now + timedelta(seconds=2))
