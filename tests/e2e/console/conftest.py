"""A registry with a fleet for all tests of a file, and visitors with Chromium."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser

from scripts.simulator.example_fleet import People, example_fleet
from tests.support.programs.browser import Visit, chromium
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Closed with the module: it holds an event loop, which tests of other files may want."""
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, People]:
    """A data folder with a fleet that has a history, and the people who work with it. Made once for all processes that
    run tests; to be copied."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "example-fleet"
    made = folder / "people.json"
    with (folder.parent / "example-fleet.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            with example_fleet(folder / "data", devices=12) as people:
                text = json.dumps(asdict(people))
            made.write_text(text)
    return folder / "data", People(**json.loads(made.read_text()))


@pytest.fixture(scope="module")
def people(example: tuple[Path, People]) -> People:
    """Tokens by name: anna deploys, ben administers, mira reads."""
    return example[1]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, example: tuple[Path, People]) -> Iterator[RegistryProcess]:
    """A registry on a copy of that folder, with a proxy on its own host."""
    server = RegistryProcess(
        tmp_path_factory.mktemp("registry"), {"MODELFLEET_REGISTRY_ACCESS__PROXIES": '["127.0.0.1"]'}
    )
    shutil.copytree(example[0], server.data)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def admin(registry: RegistryProcess) -> Iterator[httpx.Client]:
    """The API, as the administrator."""
    with registry.client() as client:
        yield client


@pytest.fixture
def cli(registry: RegistryProcess, tmp_path: object) -> Cli:
    """The administrator's shell."""
    return Cli(tmp_path, registry.url, registry.admin_token)  # type: ignore[arg-type]


@pytest.fixture
def visitors(browser: Browser, registry: RegistryProcess) -> Iterator[Callable[..., Visit]]:
    """Makes visitors; what went wrong on a page of theirs fails the test."""
    made: list[Visit] = []

    def visitor(token: str | None = None, **options: object) -> Visit:
        visit = Visit(browser, registry.url, **options)
        made.append(visit)
        if token is not None:
            visit.sign_in(token)
        return visit

    yield visitor
    for visit in made:
        visit.close()


@pytest.fixture
def operator(visitors: Callable[..., Visit], registry: RegistryProcess) -> Visit:
    """Signed in as the administrator."""
    return visitors(registry.admin_token)
