"""A registry whose disk takes no writes, is full or fails reads on, says what it cannot do, and goes on by itself."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from registry.contracts.wire import digest_of
from tests.support.host.failing_disk import FailingDisk
from tests.support.programs.fleet_registry import eventually
from tests.support.programs.registry_process import PROGRAM, RegistryProcess, publish

READ_WITHOUT_A_GAP = """
import sys, time
from concurrent.futures import ThreadPoolExecutor, wait
from sqlalchemy import text
from registry.db.engine import open_database
from registry.errors import TemporaryError

database = open_database(sys.argv[1])

def begin():
    reading = database.read()
    reading.__enter__().execute(text("SELECT * FROM alembic_version")).all()
    return reading

def write():
    deadline = time.monotonic() + 20
    while True:
        try:
            return database.probe()
        except TemporaryError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)

reading = begin()
print("reads", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(2) as threads:
    written = threads.submit(write)
    while not written.done():
        following = threads.submit(begin)
        wait([following], timeout=1)
        reading.__exit__(None, None, None)
        reading = following.result(timeout=20)
    written.result()
print("writes", flush=True)
"""
"""Each reader begins before the one before it ends, unless it has to wait for that."""
WEIGHTS = b"weights" * 1000
REFUSALS = {(503, "read_only"), (503, "storage_failed"), (507, "insufficient_storage"), (503, "busy")}


@pytest.fixture
def disk(tmp_path: Path) -> FailingDisk:
    return FailingDisk(tmp_path, tmp_path / "data")


@pytest.fixture
def registry(disk: FailingDisk, tmp_path: Path) -> Iterator[RegistryProcess]:
    """With a version published; stopped at the end of the test."""
    server = RegistryProcess(tmp_path, disk.environment).start()
    with server.client() as client:
        assert publish(client, "lenet", "1", WEIGHTS).status_code == 201
    yield server
    disk.fail(0)
    server.stop()


def log_of(registry: RegistryProcess) -> str:
    return (registry.folder / "registry.log").read_text()


def reads(client: httpx.Client) -> bool:
    blob = client.get(f"/v1/blobs/{digest_of(WEIGHTS)}")
    return client.get("/v1/models/lenet/versions/1").status_code == 200 and blob.content == WEIGHTS


def refused(answer: httpx.Response) -> bool:
    assert (answer.status_code, answer.json()["code"]) in REFUSALS, answer.text
    assert int(answer.headers["retry-after"]) > 0
    return True


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_a_disk_that_fails_while_it_runs(registry: RegistryProcess, disk: FailingDisk, number: int) -> None:
    with registry.client() as client:
        view = client.post("/v1/uploads", json={"digest": digest_of(b"next"), "size": 4}).json()
        disk.fail(number)
        for _ in range(3):
            assert refused(client.put("/v1/devices/d1", json={}))
            assert refused(client.patch(f"/v1/uploads/{view['id']}", content=b"next", headers={"Upload-Offset": "0"}))
            assert refused(client.post("/v1/uploads", json={"digest": digest_of(b"other"), "size": 5}))
            assert reads(client)
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert "ok" not in (ready.json()["database"], ready.json()["blobs"])
        assert client.get("/metrics").status_code == 200
        disk.fail(0)
        eventually(lambda: client.get("/readyz").status_code == 200)
        assert client.put("/v1/devices/d1", json={}).status_code == 201
        assert publish(client, "lenet", "2", b"next").status_code == 201
        assert reads(client)
    assert "Traceback" not in log_of(registry)


def test_it_starts_on_a_disk_that_takes_no_writes_and_goes_on_by_itself(
    registry: RegistryProcess, disk: FailingDisk
) -> None:
    for end in (registry.stop, registry.kill):
        end()
        disk.fail(errno.EROFS)
        registry.start()
        with registry.client() as client:
            assert reads(client)
            assert refused(client.put("/v1/devices/d1", json={}))
            ready = client.get("/readyz")
            assert (ready.status_code, "no writes" in ready.json()["database"]) == (503, True), ready.text
            disk.fail(0)
            eventually(lambda: client.get("/readyz").status_code == 200)
            assert client.put("/v1/devices/d1", json={}).status_code in (200, 201)
            assert client.get("/v1/devices/d1").status_code == 200
    assert "Traceback" not in log_of(registry)


def test_it_writes_again_though_there_is_always_a_reader(registry: RegistryProcess, disk: FailingDisk) -> None:
    registry.stop()
    disk.fail(errno.EROFS)
    with subprocess.Popen(
        [sys.executable, "-c", READ_WITHOUT_A_GAP, f"sqlite:///{registry.data}/registry.db"],
        env=os.environ | disk.environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as reader:  # fmt: skip
        try:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "reads\n"
            disk.fail(0)
            said, errors = reader.communicate("goes on\n", timeout=60)
        finally:
            reader.kill()
    assert said == "writes\n", errors


def test_a_first_start_on_a_disk_that_takes_no_writes_says_so(disk: FailingDisk, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    disk.fail(errno.EROFS)
    done = subprocess.run(
        [PROGRAM, "serve", "--port", "0", "--data-dir", tmp_path / "data"],
        env=os.environ | disk.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr
