"""A world of each test's own, or a database alone, on each database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.db.engine import Database
from registry.db.migrations.upgrade import upgrade
from tests.integration.registry.rollouts.world import World
from tests.support.postgres import Databases


@pytest.fixture
def world(tmp_path: Path, databases: Databases) -> Iterator[World]:
    made = World(databases.url(tmp_path))
    yield made
    made.close()


@pytest.fixture
def database(tmp_path: Path, databases: Databases) -> Iterator[Database]:
    made = Database(databases.url(tmp_path))
    upgrade(made.engine)
    yield made
    made.close()
