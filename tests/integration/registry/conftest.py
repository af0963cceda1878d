"""Registries that all tests of a module share, and one that a test may kill; a shell that speaks to one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from registry.db.engine import Database
from tests.support.host.postgres import Databases
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[RegistryProcess]:
    server = RegistryProcess(tmp_path_factory.mktemp("registry"), databases.environment()).start()
    yield server
    server.stop()


@pytest.fixture
def mortal(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[RegistryProcess]:
    server = RegistryProcess(tmp_path_factory.mktemp("registry"), databases.environment())
    yield server
    server.stop()


@pytest.fixture
def admin(registry: RegistryProcess) -> Iterator[httpx.Client]:
    with registry.client() as client:
        yield client


@pytest.fixture
def reader(registry: RegistryProcess, admin: httpx.Client) -> Iterator[httpx.Client]:
    """A token that may read alone."""
    admin.delete("/v1/tokens/a-reader")
    made = admin.post("/v1/tokens", json={"name": "a-reader", "scope": "read"}).raise_for_status().json()
    with registry.client(made["token"]) as client:
        yield client


@pytest.fixture
def anyone(registry: RegistryProcess) -> Iterator[httpx.Client]:
    with registry.client("") as client:
        yield client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    """On SQLite alone, where the database is not what is tested; tests use models and devices of their own."""
    process = RegistryProcess(tmp_path_factory.mktemp("registry")).start()
    yield process
    process.stop()


@pytest.fixture
def cli(server: RegistryProcess, tmp_path: Path) -> Cli:
    """An administrator's shell in an empty folder."""
    return Cli(tmp_path, server.url, server.admin_token)


@pytest.fixture
def database(tmp_path: Path, databases: Databases) -> Iterator[Database]:
    made = Database(databases.migrated(tmp_path))
    yield made
    made.close()
