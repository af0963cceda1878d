"""One publisher who begins all uploads that there can be, announces more than the disk has, and never ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from registry.contracts.wire import digest_of
from tests.integration.registry.server.test_publishing import problem
from tests.security.conftest import Holder
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess, put_blob

MIB = 1 << 20
SETTINGS = {
    "MODELFLEET_REGISTRY_LIMITS__OPEN_UPLOADS": "16",
    "MODELFLEET_REGISTRY_LIMITS__CONCURRENT_UPLOADS": "8",
    "MODELFLEET_REGISTRY_LIMITS__DISK_RESERVE_BYTES": str(8 * MIB),
}


@pytest.fixture(scope="module")
def crowded(small_disk: Callable[[int], Path]) -> Iterator[RegistryProcess]:
    server = RegistryProcess(small_disk(128), SETTINGS).start()
    yield server
    server.stop()


@pytest.fixture
def registry(crowded: RegistryProcess) -> Iterator[RegistryProcess]:
    yield crowded
    with crowded.client() as admin:
        for upload in admin.get("/v1/uploads").json()["items"]:
            admin.delete(f"/v1/uploads/{upload['id']}").raise_for_status()


def begin(client: httpx.Client, size: int) -> httpx.Response:
    return client.post("/v1/uploads", json={"digest": digest_of(os.urandom(16)), "size": size})


def test_who_begins_all_uploads_leaves_the_others_theirs(registry: RegistryProcess, holder: Holder) -> None:
    with holder(registry, "greedy", "publish") as greedy, holder(registry, "modest", "publish") as modest:
        answers = [begin(greedy, 1000) for _ in range(20)]
        assert [answer.status_code for answer in answers].count(201) == 4
        refused = next(answer for answer in answers if answer.status_code != 201)
        problem(refused, 429, "over_share")
        assert int(refused.headers["retry-after"]) > 0
        assert [begin(modest, 1000).status_code for _ in range(4)] == [201] * 4
        for upload in modest.get("/v1/uploads").json()["items"]:
            assert modest.delete(f"/v1/uploads/{upload['id']}").status_code == 204
        put_blob(modest, b"still published")


def slow(client: httpx.Client, upload: str, stop: threading.Event, statuses: list[int]) -> threading.Thread:
    """Sends a byte now and then."""

    def bytes_of() -> Iterator[bytes]:
        while not stop.wait(0.05):
            yield b"x"

    def send() -> None:
        headers = {"Upload-Offset": "0"}
        try:
            statuses.append(client.patch(f"/v1/uploads/{upload}", content=bytes_of(), headers=headers).status_code)
        except httpx.HTTPError:
            statuses.append(0)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_who_sends_without_end_leaves_the_others_theirs_and_is_cut_off_by_an_administrator(
    registry: RegistryProcess, holder: Holder, tmp_path: Path
) -> None:
    stop, statuses = threading.Event(), list[int]()
    with (
        holder(registry, "slow", "publish") as sender,
        registry.client() as admin,
        holder(registry, "quick", "publish") as quick,
    ):
        uploads = [begin(sender, MIB).json()["id"] for _ in range(4)]
        threads = [slow(sender, upload, stop, statuses) for upload in uploads[:2]]
        try:
            until(lambda: sum(each["sending"] for each in admin.get("/v1/uploads").json()["items"]) == 2)
            third = sender.patch(f"/v1/uploads/{uploads[2]}", content=b"x", headers={"Upload-Offset": "0"})
            problem(third, 429, "over_share")  # of eight places for all, two are for one
            put_blob(quick, b"passes")
            mine = [each for each in admin.get("/v1/uploads").json()["items"] if each["caller"] == "slow"]
            assert len(mine) == 4
            assert quick.get("/v1/uploads").json()["items"] == []
            problem(quick.delete(f"/v1/uploads/{mine[0]['id']}"), 404, "not_found")
            for each in mine:
                Cli(tmp_path, registry.url, registry.admin_token)("uploads", "cancel", each["id"], "--yes")
            assert admin.get("/v1/uploads").json()["items"] == []
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        assert statuses == [404, 404]
    until(lambda: not parts(registry))


def parts(registry: RegistryProcess) -> list[Path]:
    """Files of uploads that are not complete."""
    return [file for file in (registry.data / "blobs").rglob("*") if file.is_file() and len(file.name) == 32]


def test_room_is_held_from_the_beginning_of_an_upload(registry: RegistryProcess, holder: Holder) -> None:
    with holder(registry, "filler", "publish") as filler, holder(registry, "other", "publish") as other:
        first, second = begin(filler, 60 * MIB), begin(filler, 60 * MIB)
        assert first.status_code == 201
        problem(second, 507, "insufficient_storage")
        assert f"{60 * MIB} of them are held" in second.json()["detail"]
        content = os.urandom(30 * MIB)
        put_blob(other, content)
        headers = {"Upload-Offset": "0"}
        upload = first.json()["id"]
        sent = filler.patch(f"/v1/uploads/{upload}", content=bytes(50 * MIB), headers=headers)
        assert sent.json()["offset"] == 50 * MIB
        problem(begin(other, 35 * MIB), 507, "insufficient_storage")
        assert begin(other, 5 * MIB).status_code == 201


def test_held_room_is_held_after_a_crash(registry: RegistryProcess, holder: Holder) -> None:
    with holder(registry, "before-crash", "publish") as client:
        assert begin(client, 70 * MIB).status_code == 201
    registry.kill()
    registry.start()
    with registry.client() as admin:
        problem(begin(admin, 60 * MIB), 507, "insufficient_storage")
