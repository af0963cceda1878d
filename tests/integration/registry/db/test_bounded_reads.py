"""What pages ask of the database reads no table of devices or of a rollout's devices from end to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text

from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.rollout.states import Command
from registry.db.engine import Database
from registry.services.catalogue.coverage import cover
from registry.services.evaluations import ParityTable
from registry.services.fleet.labels import Labels
from registry.services.fleet.summary import count_fleet
from tests.integration.registry.rollouts.world import World
from tests.support.host.postgres import migrated_file

TABLES = ("devices", "device_states", "device_index", "device_slots", "device_labels", "rollout_actions")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(migrated_file(tmp_path_factory.mktemp("bounded")))
    made.add(*(f"d{number}" for number in range(6)), behaviour="failing")
    rollout = made.start()
    made.answer()
    made.tick(60)
    made.command(rollout, Command.ROLLBACK)
    yield made
    made.close()


@contextmanager
def asked(database: Database) -> Iterator[list[tuple[str, Any]]]:
    seen: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _x: Any, _many: Any) -> None:
        if statement.lstrip().startswith("SELECT"):
            seen.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def whole(world: World, work: Callable[[World], object]) -> list[str]:
    """The steps of the plans that pass over a whole table of TABLES."""
    with asked(world.database) as seen:
        work(world)
    assert seen
    found = []
    with world.database.read() as session:
        for statement, parameters in seen:
            rows = session.connection().exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters).all()
            lines = [str(row[-1]) for row in rows]
            found += [line for line in lines if line.startswith("SCAN") and line.split()[1] in TABLES]
    return found


def rollouts_page(world: World) -> object:
    return world.rollouts.page(None, None, 1 << 40, 25)


def rollout_now(world: World) -> object:
    view = world.rollouts.get(world.rollouts.page(None, None, 1 << 40, 1)[0][1].id, world.now)
    assert view.trouble[0].devices == 1
    assert view.trouble[0].first
    return view


def coverage(world: World) -> object:
    with world.database.read() as session:
        body = session.scalar(text("SELECT body FROM versions WHERE version = '2.0.0'"))
        view = cover(session, Manifest.model_validate_json(body), None)
    assert (view.devices, view.classes[0].names[:2]) == (6, ("d0", "d1"))
    return view


def figures(world: World) -> object:
    with world.database.read() as session:
        return count_fleet(session, world.now)


def labels(world: World) -> object:
    return Labels(world.database).view()


def parity(world: World) -> object:
    return ParityTable(world.database).of("lenet", "2.0.0")


def presence(world: World) -> object:
    return world.presence.count(world.now)


@pytest.mark.parametrize(
    "work",
    [
        rollouts_page,
        rollout_now,
        coverage,
        figures,
        labels,
        parity,
        presence,
    ],
)
def test_it_reads_no_table_from_end_to_end(world: World, work: Callable[[World], object]) -> None:
    assert whole(world, work) == []
