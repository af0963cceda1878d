"""A registry that all tests of a module share, and one that a test may kill."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.postgres import Databases
from tests.support.registry_process import RegistryProcess


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
def anyone(registry: RegistryProcess) -> Iterator[httpx.Client]:
    with registry.client("") as client:
        yield client
