"""What the database counts is what a count of all rows finds, whatever changes them; and a wrong number is mended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import select, text, update

from registry.contracts.api.labels import LabelsBody
from registry.contracts.rollout.states import Command
from registry.db.engine import Database
from registry.db.fleet_rows import EventRow
from registry.db.migrations.upgrade import alembic_config, upgrade
from registry.db.tally_rows import LabelKeyRow, TallyRow
from registry.services.fleet.labels import Labels
from registry.services.tallies import SOURCES, fold_tallies, recount, tallied
from tests.integration.registry.rollouts.world import World
from tests.support.host.postgres import Databases

TABLES = ("devices", "device_index", "device_slots", "rollout_actions", "device_labels")


@pytest.fixture
def world(tmp_path: Path, databases: Databases) -> World:
    return World(databases.migrated(tmp_path))


def triggers(database: Database) -> set[str]:
    with database.read() as session:
        if database.is_sqlite:
            found = session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'"))
        else:
            found = session.scalars(text("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"))
        return set(found)


def test_every_trigger_is_there_after_all_migrations(world: World) -> None:
    assert triggers(world.database) == {
        f"tally_{table}_{event}" for table in TABLES for event in ("insert", "update", "delete")
    }
    world.close()


def test_numbers_that_are_wrong_are_found_and_mended(world: World) -> None:
    world.add("d0", "d1", "d2")
    world.start()
    fold_tallies(world.database)
    assert recount(world.database) == {}
    with world.database.write() as session:
        session.execute(update(TallyRow).where(TallyRow.kind == "hosts").values(number=7))
        session.execute(update(LabelKeyRow).values(different=9))
    wrong = recount(world.database)
    assert min((kind, number) for (kind, _, _), number in wrong.items()) == ("hosts", -4)
    assert any(kind == "labels" for kind, _, _ in wrong)
    assert recount(world.database) == {}
    world.close()


def test_parts_are_added_up_without_a_change_of_the_sums(world: World) -> None:
    world.add("d0", "d1")
    rollout = world.start()
    world.answer()
    world.command(rollout, Command.ABORT)
    with world.database.read() as session:
        before = {kind: tallied(session, kind, owner) for kind in SOURCES for owner in (0, 1)}
    folded = fold_tallies(world.database)
    assert bool(folded) is not world.database.is_sqlite
    assert fold_tallies(world.database) == 0
    with world.database.read() as session:
        assert {kind: tallied(session, kind, owner) for kind in SOURCES for owner in (0, 1)} == before
        kept = session.query(TallyRow).all()
    assert {(row.part, row.number > 0) for row in kept} == {(0, True)}
    assert recount(world.database) == {}
    world.close()


def test_labels_that_come_change_and_go_are_counted(world: World) -> None:
    labels = Labels(world.database)
    world.add(*(f"d{number}" for number in range(5)), site="paris", serial="x")
    for number in range(5):
        labels.change(LabelsBody(devices=(f"d{number}",), put={"serial": str(number)}), "alice", world.now)
    labels.change(LabelsBody(selector="serial in (0,1)", put={"site": "rome", "ring": "a"}), "alice", world.now)
    labels.change(LabelsBody(selector="serial=4", remove=("site",)), "alice", world.now)
    world.devices.put("d3", {"ring": "b"}, world.now)
    world.devices.delete("d2", world.now)
    assert recount(world.database) == {}
    found = {each.key: (each.devices, each.values) for each in labels.view().keys}
    assert found == {
        "ring": (3, {"a": 2, "b": 1}),
        "serial": (3, {"0": 1, "1": 1, "4": 1}),
        "site": (2, {"rome": 2}),
    }
    world.close()


def test_rows_of_an_older_schema_are_counted_and_sorted_by_the_upgrade(tmp_path: Path, databases: Databases) -> None:
    database = Database(databases.url(tmp_path))
    config = alembic_config()
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "r0006")
        at = "2026-11-28 00:00:00+00:00"
        for number, facts in ((1, "'sha256:a'"), (2, "'sha256:a'"), (3, "NULL")):
            connection.exec_driver_sql(
                "INSERT INTO devices (id, name, created_at, facts_digest) "
                f"VALUES ({number}, 'd{number}', '{at}', {facts})"
            )
            connection.exec_driver_sql(
                f"INSERT INTO device_labels (device_id, key, value) VALUES ({number}, 'site', 's{number % 2}')"
            )
        for number, said in enumerate(({"phase": "failed", "code": "x"}, {"phase": "downloading", "code": "y"}, {})):
            connection.exec_driver_sql(
                "INSERT INTO events (device_id, event_id, at, document) "
                f"VALUES (1, 'e{number}', '{at}', '{json.dumps(said)}')"
            )
    upgrade(database.engine)
    assert recount(database) == {}
    with database.read() as session:
        assert tallied(session, "hosts") == {("sha256:a",): 2, (None,): 1}
        found = session.execute(select(EventRow.code, EventRow.severity).order_by(EventRow.id)).all()
    assert [tuple(row) for row in found] == [("x", 2), ("y", 1), ("", 0)]
    assert [(key.key, key.values) for key in Labels(database).view().keys] == [("site", {"s1": 2, "s0": 1})]
    database.close()
