"""Sizes, times and memory of a real registry stay in bounds, whatever a client does."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from registry.contracts.catalogue.manifest import MAX_MANIFEST_BYTES
from registry.contracts.wire import digest_of
from tests.integration.registry.server.test_publishing import problem
from tests.support.programs.registry_process import RegistryProcess, put_blob

MIB = 1 << 20
IMPATIENT = {
    "MODELFLEET_REGISTRY_LIMITS__HEADER_TIMEOUT_S": "0.3",
    "MODELFLEET_REGISTRY_LIMITS__BODY_TIMEOUT_S": "0.3",
    "MODELFLEET_REGISTRY_LIMITS__SEND_TIMEOUT_S": "0.3",
    "MODELFLEET_REGISTRY_LIMITS__CONNECTIONS": "20",
    "MODELFLEET_REGISTRY_LIMITS__SHARE_OF_CALLER": "1",
}


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    server = RegistryProcess(tmp_path_factory.mktemp("impatient"), IMPATIENT).start()
    yield server
    server.stop()


def connect(registry: RegistryProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", registry.port), timeout=15)


def all_of(connection: socket.socket) -> bytes:
    answer = b""
    while data := connection.recv(65536):
        answer += data
    return answer


def resident(pid: int) -> int:
    """Bytes of physical memory that the process has of its own."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


class PeakMemory:
    """The highest reading while the block runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self.before = self.peak = resident(pid)
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, resident(self._pid))

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def test_memory_does_not_grow_with_the_size_of_a_blob(registry: RegistryProcess, admin: httpx.Client) -> None:
    size = 512 * MIB
    piece = os.urandom(MIB)

    whole = hashlib.sha256()
    for _ in range(size // MIB):
        whole.update(piece)
    digest = "sha256:" + whole.hexdigest()
    put_blob(admin, piece)
    admin.get(f"/v1/blobs/{digest_of(piece)}")

    upload = admin.post("/v1/uploads", json={"digest": digest, "size": size}).json()["id"]
    with PeakMemory(registry.pid) as memory:
        pieces = (piece for _ in range(size // MIB))
        headers = {"Upload-Offset": "0", "Content-Length": str(size)}
        answer = admin.patch(f"/v1/uploads/{upload}", content=pieces, headers=headers)
        assert answer.json()["complete"]
        received = hashlib.sha256()
        with admin.stream("GET", f"/v1/blobs/{digest}") as download:
            for data in download.iter_raw():
                received.update(data)
    assert "sha256:" + received.hexdigest() == digest
    assert memory.peak - memory.before < 32 * MIB


def test_too_big_a_body_is_refused_before_it_is_read(admin: httpx.Client, registry: RegistryProcess) -> None:
    problem(admin.post("/v1/tokens", content=b" " * (5 * MIB)), 413, "too_large")

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * MIB

    with contextlib.suppress(httpx.WriteError):  # it may close before all is sent that it has refused
        problem(admin.post("/v1/tokens", content=endless()), 413, "too_large")
    assert admin.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Endless: " + b"a" * 300_000,
    ],
)
def test_too_big_a_head_is_refused(registry: RegistryProcess, head: bytes) -> None:
    with connect(registry) as connection:
        connection.sendall(head)
        assert connection.recv(4096).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01\x00", b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
def test_what_is_no_http_gets_a_problem(registry: RegistryProcess, garbage: bytes) -> None:
    with connect(registry) as connection:
        connection.sendall(garbage)
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer


def test_a_client_that_sends_its_headers_too_slowly_is_cut_off(impatient: RegistryProcess) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        assert all_of(connection).startswith(b"HTTP/1.1 408 ")
    with connect(impatient) as idle:
        assert all_of(idle) == b""


def test_a_client_that_sends_its_body_too_slowly_is_cut_off(impatient: RegistryProcess) -> None:
    head = f"POST /v1/tokens HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {impatient.admin_token}\r\n"
    with connect(impatient) as connection:
        connection.sendall(head.encode() + b"Content-Length: 100\r\n\r\n{")
        assert all_of(connection).startswith(b"HTTP/1.1 408 ")


def test_the_body_of_a_stranger_is_not_even_read(registry: RegistryProcess) -> None:
    for credential in ("", "Authorization: Bearer mf_unknown\r\n"):
        with connect(registry) as connection:
            head = f"POST /v1/tokens HTTP/1.1\r\nHost: 127.0.0.1\r\n{credential}Content-Length: 1000\r\n\r\n{{"
            connection.sendall(head.encode())
            answer = all_of(connection)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b'"unauthorized"' in answer


def test_the_bodies_of_all_requests_together_have_a_bound(tmp_path: Path) -> None:
    size = MAX_MANIFEST_BYTES
    bounds = {f"MODELFLEET_REGISTRY_LIMITS__{name}_BYTES": str(size) for name in ("JSON", "HELD_BODY")}
    server = RegistryProcess(tmp_path, bounds).start()
    head = f"POST /v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.admin_token}\r\n"
    try:
        with connect(server) as slow, server.client() as client:
            made = client.post("/v1/tokens", json={"name": "other", "scope": "admin"}).json()["token"]
            slow.sendall(head.encode() + f"Content-Length: {size}\r\nExpect: 100-continue\r\n\r\n".encode())
            assert slow.recv(4096).startswith(b"HTTP/1.1 100 ")
            problem(client.post("/v1/tokens", content=b"  "), 422, "invalid")  # announced, and not come
            slow.sendall(b"0" * (size - 1))
            with server.client(made) as other:
                until_refused(other)
                problem(other.post("/v1/tokens", content=b"  "), 503, "busy")
            problem(client.post("/v1/tokens", content=b"  "), 429, "over_share")
            slow.sendall(b"0")
            assert b" 4" in slow.recv(4096)[:20]
            problem(client.post("/v1/tokens", content=b"  "), 422, "invalid")
    finally:
        server.stop()


def until_refused(client: httpx.Client) -> None:
    """What was sent over another connection is read at some time."""
    deadline = time.monotonic() + 60
    while client.post("/v1/tokens", content=b"  ").status_code == 422:
        assert time.monotonic() < deadline


def test_brackets_do_not_hide_in_another_encoding(admin: httpx.Client) -> None:
    text = '{"name": ["\u2200", ' + "[" * 100 + "]" * 100 + "]}"
    for encoding in ("utf-16-le", "utf-16", "utf-32"):
        answer = admin.post("/v1/tokens", content=text.encode(encoding), headers={"content-type": "application/json"})
        problem(answer, 422, "invalid")
        assert "UTF-8" in answer.json()["detail"]


def test_a_text_with_a_nul_character_is_refused_by_every_database(admin: httpx.Client) -> None:
    group = {"devices": ["edge-1"], "note": "a\x00b"}
    problem(admin.put("/v1/groups/front", json=group), 422, "invalid")
    problem(admin.put("/v1/devices/edge-1", json={"labels": {"site": "\\\x00"}}), 422, "invalid")
    written = r"a backslash, and u0000: \u0000"
    assert admin.put("/v1/groups/front", json={**group, "note": written}).json()["note"] == written


def test_an_upload_that_stalls_keeps_what_came(impatient: RegistryProcess) -> None:
    data = os.urandom(MIB)
    with impatient.client() as client:
        view = client.post("/v1/uploads", json={"digest": digest_of(data), "size": len(data)}).json()
        head = (
            f"PATCH /v1/uploads/{view['id']} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpload-Offset: 0\r\n"
            f"Authorization: Bearer {impatient.admin_token}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        with connect(impatient) as connection:
            connection.sendall(head.encode() + data[:200_000])
            assert all_of(connection).startswith(b"HTTP/1.1 408 ")
        assert client.get(f"/v1/uploads/{view['id']}").json()["offset"] == 200_000


def test_a_reader_that_stops_reading_is_cut_off(impatient: RegistryProcess) -> None:
    data = os.urandom(32 * MIB)
    with impatient.client() as client:
        digest = put_blob(client, data)
    with connect(impatient) as connection:
        head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {impatient.admin_token}\r\n\r\n"
        connection.sendall(f"GET /v1/blobs/{digest} HTTP/1.1\r\n{head}".encode())
        assert connection.recv(1, socket.MSG_PEEK)
        deadline = time.monotonic() + 30
        while has_open(impatient.pid, digest):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        taken = 0
        with contextlib.suppress(ConnectionResetError):
            while got := len(connection.recv(MIB)):
                taken += got
        assert taken < len(data)


def has_open(pid: int, digest: str) -> bool:
    """Does the process still have the blob open?"""
    names = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            names.append(os.readlink(entry))
        except FileNotFoundError:
            continue
    return any(digest.removeprefix("sha256:") in name for name in names)


def test_connections_over_the_limit_are_told_to_come_later(impatient: RegistryProcess) -> None:
    head = (
        f"GET /v1/rollout-events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {impatient.admin_token}\r\n\r\n"
    )
    connections = []
    try:
        for _ in range(20):  # each has a request, so none gives way
            connections.append(connect(impatient))
            connections[-1].sendall(head.encode())
            assert connections[-1].recv(4096).startswith(b"HTTP/1.1 200 ")
        with connect(impatient) as late:
            assert late.recv(4096).startswith(b"HTTP/1.1 503 ")
    finally:
        for connection in connections:
            connection.close()
    deadline = time.monotonic() + 15
    with impatient.client("") as client:
        while True:
            try:
                if client.get("/healthz").status_code == 200:
                    return
            except httpx.TransportError:
                assert time.monotonic() < deadline


def test_an_upload_that_only_trickles_is_cut_off_and_one_that_goes_on_is_not(impatient: RegistryProcess) -> None:
    data = os.urandom(MIB)
    with impatient.client() as client:
        view = client.post("/v1/uploads", json={"digest": digest_of(data), "size": len(data)}).json()
        sent = 0
        for piece, pause, status in ((64 << 10, 0.15, b"HTTP/1.1 200 "), (1, 0.05, b"HTTP/1.1 408 ")):
            length = MIB // 2
            head = (
                f"PATCH /v1/uploads/{view['id']} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpload-Offset: {sent}\r\n"
                f"Authorization: Bearer {impatient.admin_token}\r\nContent-Length: {length}\r\n\r\n"
            )
            with connect(impatient) as connection:
                connection.sendall(head.encode())
                answer, end = b"", sent + length
                while sent < end and not answer:
                    connection.sendall(data[sent : sent + piece])
                    sent += piece
                    connection.settimeout(pause)
                    with contextlib.suppress(TimeoutError):
                        answer = connection.recv(65536)
                connection.settimeout(15)
                assert (answer or connection.recv(65536)).startswith(status)
            sent = client.get(f"/v1/uploads/{view['id']}").json()["offset"]
        assert MIB // 2 < sent < MIB
