"""The migrations make exactly the tables that the rows describe, and the OpenAPI document covers the contract."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from registry.contracts import paths
from registry.db.engine import Database
from registry.db.migrations.upgrade import upgrade
from registry.db.schema import METADATA
from registry.server.app import openapi_document
from tests.support.postgres import Databases


def test_migrations_and_rows_agree(tmp_path: Path, databases: Databases) -> None:
    database = Database(databases.url(tmp_path))
    upgrade(database.engine)
    upgrade(database.engine)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "render_as_batch": True})
        assert compare_metadata(context, METADATA) == []
    database.close()


def test_sqlite_is_set_to_survive_a_power_cut(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'fresh.db'}")
    names = ("journal_mode", "synchronous", "foreign_keys")
    with database.read() as session:
        connection = session.connection()
        settings = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    database.close()


SERVED = {path.replace("{", "").replace("}", "") for path in openapi_document()["paths"]}
CONTRACT = [
    function
    for name, function in inspect.getmembers(paths, inspect.isfunction)
    if name.endswith("_path") and not name.startswith("_")
]


@pytest.mark.parametrize("path_of", CONTRACT, ids=lambda function: function.__name__)
def test_every_path_of_the_contract_is_served(path_of: object) -> None:
    assert callable(path_of)
    names = list(inspect.signature(path_of).parameters)
    assert path_of(*names) in SERVED
