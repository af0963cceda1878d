"""What a registry on PostgreSQL does when the server goes away, and what two of its processes do at once.

That it does everything else as on SQLite is shown by the other tests of this folder, which run on both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from registry.contracts.rollout.spec import GroupBody
from registry.contracts.rollout.views import WebhookCreate
from registry.db.base import Base
from registry.db.engine import Database
from registry.db.rollout_rows import GroupRow, RolloutRow, WebhookRow
from registry.errors import BusyError, ConflictError
from registry.services.webhooks import Webhooks
from tests.integration.registry.rollouts.world import START, World, quick
from tests.support.host.postgres import PostgreSql
from tests.support.programs.fleet_registry import eventually
from tests.support.programs.registry_process import RegistryProcess, publish


@pytest.fixture
def mortal_server(tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSql) -> Iterator[PostgreSql]:
    """A PostgreSQL of the test's own, which waits for the disk (the session's is asked for: it skips where none is)."""
    server = PostgreSql(tmp_path_factory.mktemp("mortal-postgresql")).start()
    yield server
    server.stop()


def test_while_the_server_is_away_requests_are_asked_to_come_again_and_then_nothing_is_lost(
    mortal_server: PostgreSql, tmp_path: Path
) -> None:
    settings = {"MODELFLEET_REGISTRY_DATABASE_URL": mortal_server.new_database()}
    registry = RegistryProcess(tmp_path, settings).start()
    with registry.client() as client:
        assert publish(client, "lenet", "1", b"weights").status_code == 201
        mortal_server.crash()
        for answer in (client.get("/v1/models/lenet"), client.put("/v1/devices/d1", json={})):
            assert (answer.status_code, answer.json()["code"]) == (503, "busy"), answer.text
        mortal_server.start()
        eventually(lambda: client.get("/v1/models/lenet").status_code == 200)
        assert client.get("/v1/models/lenet/versions/1").json()["version"] == "1"
        assert client.put("/v1/devices/d1", json={}).status_code == 201
    registry.stop()


def test_of_two_processes_that_write_what_they_read_one_is_told_to_come_again(postgresql: PostgreSql) -> None:
    url = postgresql.new_database()
    one, other = Database(url), Database(url)
    with one.write() as session:
        session.execute(text("CREATE TABLE counter (value integer)"))
        session.execute(text("INSERT INTO counter VALUES (0)"))
    both_have_read = threading.Barrier(2, timeout=20)
    outcomes: list[str] = []

    def raise_it(database: Database) -> None:
        try:
            with database.write() as session:
                value = session.execute(text("SELECT value FROM counter")).scalar_one()
                both_have_read.wait()
                session.execute(text("UPDATE counter SET value = :value"), {"value": value + 1})
            outcomes.append("written")
        except BusyError:
            outcomes.append("busy")

    threads = [threading.Thread(target=raise_it, args=(database,)) for database in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["busy", "written"]
    assert one.conflicts + other.conflicts == 1
    with one.read() as session:
        assert session.execute(text("SELECT value FROM counter")).scalar_one() == 1
    one.close()
    other.close()


@pytest.mark.parametrize("thing", ["rollout", "group", "webhook"])
def test_of_two_processes_that_make_the_same_name_the_slower_is_told_of_the_conflict(
    postgresql: PostgreSql, thing: str
) -> None:
    """The faster one's row is not to be seen yet when the slower one looks, and is there when it writes."""
    world = World(postgresql.migrated_database())
    faster = Database(world.database.engine.url.render_as_string(hide_password=False))
    rows: dict[str, Base] = {
        "rollout": rollout_row("same"),
        "group": GroupRow(name="same", selector="*", changed_at=START),
        "webhook": WebhookRow(
            name="same", url="https://example.org/", kinds=[], secret="s", cursor=0, created_at=START
        ),
    }
    make: dict[str, Callable[[], object]] = {
        "rollout": lambda: world.rollouts.create(quick(name="same"), None, "alice", START),
        "group": lambda: world.groups.put("same", GroupBody(selector="*"), START),
        "webhook": lambda: Webhooks(world.database, world.log).put("same", WebhookCreate(url="https://a.org/"), START),
    }
    with ThreadPoolExecutor(1) as pool:
        with faster.write() as session:
            session.add(rows[thing])
            session.flush()
            slower = pool.submit(make[thing])
            eventually(lambda: waiting(faster))
        with pytest.raises(ConflictError):
            slower.result(30)
    faster.close()
    world.close()


def waiting(database: Database) -> bool:
    """Somebody waits for another one's lock."""
    with database.read() as session:
        found = session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))
    return bool(found)


def rollout_row(name: str) -> RolloutRow:
    return RolloutRow(
        public="r-000000000000", name=name, model="lenet", version="2.0.0", manifest="", spec="{}", state="draft",
        revision=1, reason="new", since=START, created_at=START,
    )  # fmt: skip


def test_a_text_that_the_server_cannot_keep_is_refused_and_the_next_one_works(
    postgresql: PostgreSql, tmp_path: Path
) -> None:
    settings = {"MODELFLEET_REGISTRY_DATABASE_URL": postgresql.new_database()}
    registry = RegistryProcess(tmp_path, settings).start()
    with registry.client() as client:
        answer = client.put("/v1/devices/d1", json={"labels": {"site": "pa\0ris"}})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), answer.text
        assert client.put("/v1/devices/d1", json={"labels": {"site": "paris"}}).status_code == 201
    registry.stop()
