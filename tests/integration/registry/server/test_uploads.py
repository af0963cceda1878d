"""Uploads to a real registry: cut, killed, lied to. What was acknowledged stays; what is wrong is never seen."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from registry.contracts.wire import Digest, digest_of
from tests.integration.registry.server.test_publishing import problem
from tests.support.programs.registry_process import RegistryProcess, put_blob

MIB = 1 << 20


def begin(client: httpx.Client, data: bytes) -> str:
    body = {"digest": digest_of(data), "size": len(data)}
    return str(client.post("/v1/uploads", json=body).raise_for_status().json()["id"])


def send(client: httpx.Client, upload: str, offset: int, data: bytes) -> httpx.Response:
    return client.patch(f"/v1/uploads/{upload}", content=data, headers={"Upload-Offset": str(offset)})


def offset_of(client: httpx.Client, upload: str) -> int:
    answer = client.get(f"/v1/uploads/{upload}").raise_for_status()
    assert answer.headers["upload-offset"] == str(answer.json()["offset"])
    return int(answer.json()["offset"])


def until_offset(client: httpx.Client, upload: str, least: int) -> int:
    """The server notices a cut connection a little later."""
    deadline = time.monotonic() + 15
    while (offset := offset_of(client, upload)) < least:
        assert time.monotonic() < deadline, f"offset stayed at {offset}, below {least}"
        time.sleep(0.01)
    return offset


def raw_patch(registry: RegistryProcess, upload: str, offset: int, headers: str, body: bytes) -> socket.socket:
    """A request written by hand; the caller closes the connection."""
    connection = socket.create_connection(("127.0.0.1", registry.port), timeout=15)
    head = (
        f"PATCH /v1/uploads/{upload} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {registry.admin_token}\r\n"
        f"Upload-Offset: {offset}\r\n{headers}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def test_a_blob_comes_in_pieces_and_is_seen_only_when_it_is_whole(admin: httpx.Client, reader: httpx.Client) -> None:
    data = os.urandom(3 * MIB + 17)
    upload = begin(admin, data)
    for start in range(0, len(data), MIB):
        assert reader.get(f"/v1/blobs/{digest_of(data)}").status_code == 404
        answer = send(admin, upload, start, data[start : start + MIB]).raise_for_status()
        assert answer.json()["offset"] == min(start + MIB, len(data))
    assert answer.json()["complete"]
    assert reader.get(f"/v1/blobs/{digest_of(data)}").content == data
    problem(admin.get(f"/v1/uploads/{upload}"), 404, "not_found")
    again = admin.post("/v1/uploads", json={"digest": digest_of(data), "size": len(data)})
    assert again.status_code == 200
    assert again.json()["complete"]


def test_beginning_again_finds_the_same_session(admin: httpx.Client) -> None:
    data = os.urandom(MIB)
    upload = begin(admin, data)
    send(admin, upload, 0, data[:1000]).raise_for_status()
    assert begin(admin, data) == upload
    assert offset_of(admin, upload) == 1000


def test_a_wrong_offset_is_answered_with_the_right_one(admin: httpx.Client) -> None:
    data = os.urandom(MIB)
    upload = begin(admin, data)
    send(admin, upload, 0, data[:5000]).raise_for_status()
    for wrong in (0, 4999, 5001):
        answer = send(admin, upload, wrong, data[wrong:])
        problem(answer, 409, "offset_mismatch")
        assert answer.headers["upload-offset"] == "5000"
    assert send(admin, upload, 5000, data[5000:]).json()["complete"]


def test_wrong_bytes_are_refused_and_the_session_starts_again(admin: httpx.Client, reader: httpx.Client) -> None:
    data = os.urandom(MIB)
    upload = begin(admin, data)
    problem(send(admin, upload, 0, data[:-1] + bytes([data[-1] ^ 1])), 422, "digest_mismatch")
    assert reader.get(f"/v1/blobs/{digest_of(data)}").status_code == 404
    assert offset_of(admin, upload) == 0
    assert send(admin, upload, 0, data).json()["complete"]


def test_an_empty_blob_needs_no_bytes(admin: httpx.Client, reader: httpx.Client) -> None:
    put_blob(admin, b"")
    assert reader.get(f"/v1/blobs/{digest_of(b'')}").content == b""
    body = {"digest": digest_of(b"x"), "size": 0}
    problem(admin.post("/v1/uploads", json=body), 422, "digest_mismatch")


def test_more_than_was_announced_is_refused(registry: RegistryProcess, admin: httpx.Client) -> None:
    data = os.urandom(1000)
    upload = begin(admin, data)
    problem(send(admin, upload, 0, data + b"more"), 413, "too_large")

    def chunked() -> Iterator[bytes]:
        yield data
        yield b"more"

    answer = admin.patch(f"/v1/uploads/{upload}", content=chunked(), headers={"Upload-Offset": "0"})
    problem(answer, 413, "too_large")
    offset = offset_of(admin, upload)
    assert send(admin, upload, offset, data[offset:]).json()["complete"]


def test_a_truncated_body_keeps_what_came(registry: RegistryProcess, admin: httpx.Client) -> None:
    data = os.urandom(MIB)
    upload = begin(admin, data)
    raw_patch(registry, upload, 0, f"Content-Length: {len(data)}", data[:300_000]).close()
    assert until_offset(admin, upload, 300_000) == 300_000
    assert send(admin, upload, 300_000, data[300_000:]).json()["complete"]


def test_a_content_length_that_is_too_small_harms_nothing(registry: RegistryProcess, admin: httpx.Client) -> None:
    data = os.urandom(5000)
    upload = begin(admin, data)
    with raw_patch(registry, upload, 0, "Content-Length: 1000", data) as connection:
        while connection.recv(4096):
            pass
    deadline = time.monotonic() + 15
    while not (answer := send(admin, upload, offset_of(admin, upload), data[offset_of(admin, upload) :])).is_success:
        assert time.monotonic() < deadline, answer.text
    assert answer.json()["complete"]


@pytest.mark.parametrize(
    "headers", ["Content-Length: -5", "Content-Length: 1e3", "Content-Length: 5\r\nContent-Length: 6"]
)
def test_a_content_length_that_is_no_length_is_refused(
    registry: RegistryProcess, admin: httpx.Client, headers: str
) -> None:
    upload = begin(admin, os.urandom(5000))
    with raw_patch(registry, upload, 0, headers, b"") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert offset_of(admin, upload) == 0


def test_only_one_request_at_a_time_writes_to_a_session(registry: RegistryProcess, admin: httpx.Client) -> None:
    data = os.urandom(3 * MIB)
    upload = begin(admin, data)
    with raw_patch(registry, upload, 0, f"Content-Length: {len(data)}", data[: 2 * MIB]):
        deadline = time.monotonic() + 15
        while (answer := send(admin, upload, 7, b"x")).status_code != 503:
            assert time.monotonic() < deadline
        problem(answer, 503, "busy")
    assert until_offset(admin, upload, 2 * MIB) == 2 * MIB
    assert send(admin, upload, 2 * MIB, data[2 * MIB :]).json()["complete"]


def test_a_session_belongs_to_its_token(registry: RegistryProcess, admin: httpx.Client) -> None:
    upload = begin(admin, os.urandom(100))
    token = admin.post("/v1/tokens", json={"name": "other", "scope": "publish"}).json()["token"]
    with registry.client(token) as other:
        problem(other.get(f"/v1/uploads/{upload}"), 404, "not_found")
        problem(other.delete(f"/v1/uploads/{upload}"), 404, "not_found")
    assert admin.delete(f"/v1/uploads/{upload}").status_code == 204
    problem(admin.get(f"/v1/uploads/{upload}"), 404, "not_found")


def test_a_blob_over_the_limit_or_over_the_disk_is_refused_before_it_is_sent(admin: httpx.Client) -> None:
    digest: Digest = digest_of(b"big")
    problem(admin.post("/v1/uploads", json={"digest": digest, "size": 1 << 49}), 413, "too_large")
    problem(admin.post("/v1/uploads", json={"digest": digest, "size": -1}), 422, "invalid")
    problem(admin.post("/v1/uploads", json={"digest": "sha256:../../etc", "size": 1}), 422, "invalid")


def test_there_is_room_for_the_blob_or_it_is_refused(mortal: RegistryProcess) -> None:
    reserve = {"MODELFLEET_REGISTRY_LIMITS__DISK_RESERVE_BYTES": str(1 << 49)}
    mortal = RegistryProcess(mortal.folder, reserve).start()
    try:
        with mortal.client() as client:
            body = {"digest": digest_of(b"x"), "size": 1}
            problem(client.post("/v1/uploads", json=body), 507, "insufficient_storage")
    finally:
        mortal.stop()


@pytest.mark.parametrize("moment", ["between requests", "within a request"])
def test_an_upload_goes_on_after_the_registry_was_killed(mortal: RegistryProcess, moment: str) -> None:
    data = os.urandom(8 * MIB)
    mortal.start()
    with mortal.client() as client:
        upload = begin(client, data)
        acknowledged = send(client, upload, 0, data[: 2 * MIB]).raise_for_status().json()["offset"]
        connection = None
        if moment == "within a request":
            rest = data[acknowledged : 6 * MIB]
            connection = raw_patch(mortal, upload, acknowledged, f"Content-Length: {6 * MIB}", rest)
        mortal.kill()
        if connection is not None:
            connection.close()
    mortal.start()
    with mortal.client() as client:
        assert client.get(f"/v1/blobs/{digest_of(data)}").status_code == 404
        offset = offset_of(client, upload)
        assert acknowledged <= offset <= 6 * MIB
        assert send(client, upload, offset, data[offset:]).json()["complete"]
        assert client.get(f"/v1/blobs/{digest_of(data)}").content == data
