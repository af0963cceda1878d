"""A registry whose database file is moved, removed or replaced while it runs acknowledges nothing that would be gone at
the next start, says so, and goes on once the file is back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.programs.fleet_registry import eventually
from tests.support.programs.registry_process import RegistryProcess


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryProcess]:
    server = RegistryProcess(tmp_path).start()
    yield server
    server.stop()


def refused(answer: httpx.Response) -> bool:
    said = answer.json()
    return (answer.status_code, said["code"]) == (503, "storage_failed") and "moved" in said["detail"]


def unready(client: httpx.Client) -> bool:
    answer = client.get("/readyz")
    return answer.status_code == 503 and "moved, removed or replaced" in answer.json()["database"]


@pytest.mark.parametrize("how", ["moved", "replaced"])
def test_what_would_be_gone_is_refused_and_all_goes_on_once_the_file_is_back(
    registry: RegistryProcess, tmp_path: Path, how: str
) -> None:
    file, away = registry.data / "registry.db", tmp_path / "away.db"
    with registry.client() as client:
        assert client.put("/v1/devices/before", json={}).is_success
        file.rename(away)
        if how == "replaced":
            shutil.copy(away, file)
        assert refused(client.put("/v1/devices/meanwhile", json={}))
        eventually(lambda: unready(client))
        assert how == "replaced" or not file.exists(), "no empty database is made in its place"
        away.rename(file)
        assert client.put("/v1/devices/after", json={}).is_success
        eventually(lambda: client.get("/readyz").status_code == 200)
    registry.kill()
    registry.start()
    with registry.client() as client:
        found = {name: client.get(f"/v1/devices/{name}").status_code for name in ("before", "meanwhile", "after")}
    assert found == {"before": 200, "meanwhile": 404, "after": 200}
    assert "Traceback" not in (tmp_path / "registry.log").read_text()
