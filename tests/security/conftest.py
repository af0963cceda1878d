"""What the tests attack: a registry with its tokens and its disk; a device and the server that it asks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.security.device_metadata import DeviceMetadata
from tests.support.network.metadata_server import metadata_server
from tests.support.programs.registry_process import RegistryProcess

Holder = Callable[[RegistryProcess, str, str], httpx.Client]


@pytest.fixture
def holder() -> Holder:
    """Makes a token of a scope, and a client that sends it."""

    def make(registry: RegistryProcess, name: str, scope: str) -> httpx.Client:
        with registry.client() as admin:
            made = admin.post("/v1/tokens", json={"name": name, "scope": scope})
        assert made.status_code == 201
        return registry.client(made.json()["token"])

    return make


@pytest.fixture(scope="session")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Path]]:
    """Makes a disk of so many MiB, until the session ends; skips where nobody may mount one."""
    made: list[Path] = []

    def mount(size: int) -> Path:
        folder = tmp_path_factory.mktemp("disk")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("nobody may mount a file system here")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[DeviceMetadata]:
    with metadata_server() as server:
        made = DeviceMetadata(tmp_path, server)
        yield made
        made.client.close()
