"""A world of each test's own, on each database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.services.tallies import recount
from tests.integration.registry.rollouts.world import World
from tests.support.host.postgres import Databases


@pytest.fixture
def world(tmp_path: Path, databases: Databases) -> Iterator[World]:
    made = World(databases.migrated(tmp_path))
    yield made
    assert recount(made.database) == {}, "the database does not count what is there"
    made.close()
