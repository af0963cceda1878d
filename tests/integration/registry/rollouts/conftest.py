"""A world of each test's own, or a database alone, on each database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.db.engine import Database
from tests.integration.registry.rollouts.world import World
from tests.support.postgres import Databases


@pytest.fixture
def world(tmp_path: Path, databases: Databases) -> Iterator[World]:
    made = World(databases.migrated(tmp_path))
    yield made
    made.close()


@pytest.fixture
def database(tmp_path: Path, databases: Databases) -> Iterator[Database]:
    made = Database(databases.migrated(tmp_path))
    yield made
    made.close()
