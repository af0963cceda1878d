"""The migrations make exactly the tables that the rows describe, and the OpenAPI document covers the contract."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from registry.contracts import paths
from registry.db.engine import Database
from registry.db.migrations.upgrade import alembic_config, upgrade
from registry.db.schema import METADATA
from registry.server.app import openapi_document
from tests.support.host.postgres import Databases


def test_migrations_and_rows_agree(tmp_path: Path, databases: Databases) -> None:
    database = Database(databases.url(tmp_path))
    upgrade(database.engine)
    upgrade(database.engine)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "render_as_batch": True})
        assert compare_metadata(context, METADATA) == []
    database.close()


RELEASED = {
    "r0001": "f8a5a398fe6438962bd609ec0dcb4cb28e3c2ec8e1dc6f6fe80eede308a85c63",
    "r0002": "6b36c624c315f36096e9049ec60729a19eac8c161bfa273cff2b83515faefe3d",
    "r0003": "67e7d97755c7926a8a7769fd05c01a5a580c0880683bdf54787537794c646917",
    "r0004": "b46c1b75a2753358f04810b5987395591a0bec9739943ee59556292a84415f9a",
    "r0005": "badb370995f1c1795c5454d72fb491ed6455fd43fea24adec250abd6f0bf5b94",
    "r0006": "f2358d5223c16aa3973fbcdc3848434747cbe7381e1709f0cbc1aef496afff47",
    "r0007": "ac8742f547a81a20f95aa8a5bd9f9903af207fa6736f17241536bef161c3e464",
    "r0008": "ec5713c6854099ee78dce1a002070eed01d7dabe5dbb0b52142c95d7c02df43a",
    "r0009": "8bd38d59bddae286ef4b34b8ec49ef822fda4bcec8845b416bf0d1a685ec3e24",
    "r0010": "f9aa1abd966614e305adf8f823b05183d368517d21c90e1c8d9b0b1932267fbf",
    "r0011": "e758191abde655c1e5f621e12fe7f8e79c3a6a48b9778d93a0590c60f7a81c6c",
}
"""SHA-256 of each migration's file. Databases have run them: a line is added here, none is ever changed."""


def test_released_migrations_are_never_changed_and_follow_one_another() -> None:
    scripts = list(ScriptDirectory.from_config(alembic_config()).walk_revisions())[::-1]
    assert {script.revision: sha256(Path(script.path).read_bytes()).hexdigest() for script in scripts} == RELEASED
    assert [script.revision for script in scripts] == [f"r{number:04d}" for number in range(1, len(scripts) + 1)]
    assert [script.down_revision for script in scripts] == [None, *[script.revision for script in scripts[:-1]]]


def test_sqlite_is_set_to_survive_a_power_cut(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'fresh.db'}")
    names = ("journal_mode", "synchronous", "foreign_keys")
    with database.read() as session:
        connection = session.connection()
        settings = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    database.close()


CONTRACT = {name: path for name, path in vars(paths).items() if name.endswith("_path")}


@pytest.mark.parametrize("name", CONTRACT)
def test_every_path_of_the_contract_is_served(name: str) -> None:
    assert CONTRACT[name].template in openapi_document()["paths"]
