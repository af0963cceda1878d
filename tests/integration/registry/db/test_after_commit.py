"""What a transaction announces is told after its commit, and only then."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from sqlalchemy import event, func, select

from registry.config import RegistryConfig
from registry.contracts.rollout.spec import GroupBody
from registry.db.engine import Changed, Database, announce
from registry.db.rollout_rows import GroupRow
from registry.errors import ConflictError
from registry.server.composition import build_services
from tests.integration.registry.rollouts.world import World, quick
from tests.support.host.postgres import Databases, migrated_file

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def database(tmp_path: Path, databases: Databases) -> Iterator[Database]:
    made = Database(databases.migrated(tmp_path))
    yield made
    made.close()


def groups(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(GroupRow)) or 0


def put(database: Database, name: str = "one") -> None:
    with database.write() as session:
        session.add(GroupRow(name=name, changed_at=NOW))
        announce(session, Changed.FLEET)
        announce(session, Changed.FLEET)


def test_a_listener_sees_what_was_committed_and_may_write(database: Database) -> None:
    seen: list[int] = []

    def listener(_name: str) -> None:
        seen.append(groups(database))
        if len(seen) == 1:
            put(database, "two")  # neither the transaction nor the writers' queue is in the way

    database.listeners.add(Changed.FLEET, listener)
    put(database)
    assert seen == [1, 2]


def test_each_name_is_told_once_and_only_to_those_who_asked_for_its_kind(database: Database) -> None:
    told: list[str] = []
    database.listeners.add(Changed.TOKEN, told.append)
    database.listeners.add(Changed.FLEET, lambda _: told.append("fleet"))
    with database.write() as session:
        for name in ("a", "b", "a"):
            announce(session, Changed.TOKEN, name)
    assert told == ["a", "b"]
    put(database)
    assert told == ["a", "b", "fleet"]


def test_after_a_rollback_nobody_is_told(database: Database) -> None:
    told: list[str] = []
    database.listeners.add(Changed.FLEET, told.append)

    def refused() -> None:
        with database.write() as session:
            announce(session, Changed.FLEET)
            raise ConflictError("changed its mind")

    with pytest.raises(ConflictError):
        refused()
    assert told == []


def test_after_a_commit_that_failed_nobody_is_told(database: Database) -> None:
    told: list[str] = []
    database.listeners.add(Changed.FLEET, told.append)

    def fails(_connection: object) -> None:
        raise OSError("power cut")

    event.listen(database.engine, "commit", fails)
    with pytest.raises(OSError, match="power cut"):
        put(database)
    event.remove(database.engine, "commit", fails)
    assert (told, groups(database)) == ([], 0)


def test_a_listener_that_fails_harms_nobody(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    def broken(_name: str) -> None:
        raise OSError("listener is broken")

    database.listeners.add(Changed.FLEET, broken)
    database.listeners.add(Changed.FLEET, told.append)
    with caplog.at_level(logging.ERROR):
        put(database)
    assert (told, groups(database)) == ([""], 1)
    assert "listener is broken" in caplog.text


def test_who_no_longer_listens_is_not_told(database: Database) -> None:
    told: list[str] = []
    end = database.listeners.add(Changed.FLEET, told.append)
    end()
    put(database)
    assert told == []


@pytest.fixture
def world(tmp_path: Path, databases: Databases) -> Iterator[World]:
    made = World(databases.migrated(tmp_path))
    yield made
    made.close()


def test_every_use_case_announces_what_it_changed(world: World) -> None:
    told: list[tuple[Changed, str]] = []
    for changed in Changed:
        world.database.listeners.add(changed, lambda name, kind=changed: told.append((kind, name)))  # type: ignore[misc]

    def news() -> set[tuple[Changed, str]]:
        new = set(told)
        told.clear()
        return new

    documents, events = (Changed.DOCUMENTS, ""), (Changed.EVENTS, "")
    fleet, rollouts = (Changed.FLEET, ""), (Changed.ROLLOUTS, "")
    world.devices.put("d0", {"site": "paris"}, world.now)
    assert news() == {documents, fleet, (Changed.TOKEN, "device/d0")}
    world.devices.put("d0", {"site": "rome"}, world.now)
    assert news() == {fleet}
    world.devices.rotate("d0", world.now)
    assert news() == {(Changed.TOKEN, "device/d0")}
    world.add("d0", "d1")
    assert news() >= {documents, fleet}
    world.groups.put("front", GroupBody(selector="site=paris"), world.now)
    assert news() == {fleet}
    world.start(waves=quick().waves[1:])
    assert news() == {documents, events, rollouts}
    world.deploy("d0", "3.0.0")
    assert news() == {documents, events, rollouts}
    world.deploy("d0", "3.0.0")
    assert news() == set()
    world.devices.delete("d1", world.now)
    assert news() == {documents, fleet, (Changed.TOKEN, "device/d1")}


def test_the_thread_that_moves_rollouts_is_woken(tmp_path: Path) -> None:
    migrated_file(tmp_path)
    services, woken = build_services(RegistryConfig(data_dir=tmp_path)), threading.Event()
    waker = services.fleet.waker
    thread = threading.Thread(target=waker.run, args=(lambda _stop: woken.set(),))
    thread.start()
    services.fleet.groups.put("front", GroupBody(selector="site=paris"), NOW)
    assert woken.wait(30)
    waker.stop()
    thread.join(30)
    services.close()
