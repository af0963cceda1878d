"""A device, a publisher or a reader at full speed: the others still get theirs, and the one is told to come later."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.registry.server.test_publishing import problem
from tests.security.conftest import Holder
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess

MIB = 1 << 20
SETTINGS = {
    "MODELFLEET_REGISTRY_LIMITS__JSON_BYTES": str(MIB),
    "MODELFLEET_REGISTRY_LIMITS__HELD_BODY_BYTES": str(64 * MIB),
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    server = RegistryProcess(tmp_path_factory.mktemp("shares"), SETTINGS).start()
    yield server
    server.stop()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def refusals(registry: RegistryProcess, what: str) -> float:
    with registry.client() as admin:
        text = admin.get("/metrics").text
    line = next(
        line for line in text.splitlines() if line.startswith(f'modelfleet_share_refusals_total{{what="{what}"}}')
    )
    return float(line.split()[1])


def credential(registry: RegistryProcess, device: str) -> str:
    with registry.client() as admin:
        return str(admin.put(f"/v1/devices/{device}", json={"labels": {}}).json()["token"])


def test_70_slow_reports_of_one_device_stop_nobody(registry: RegistryProcess, tmp_path: Path) -> None:
    token = credential(registry, "slow-1")
    head = (
        f"POST /v1/devices/slow-1/reports HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Length: {MIB}\r\n\r\n"
    ).encode()
    before = refusals(registry, "bodies")
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", registry.port), 30)) for _ in range(70)
        ]
        for connection in connections:
            connection.sendall(head)
        with registry.client() as admin:  # announced, and nothing has come
            assert admin.put("/v1/groups/a", json={"selector": "x=1"}).status_code in {200, 201}
        senders = [threading.Thread(target=trickle, args=(connection,)) for connection in connections]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(60)
        until(lambda: refusals(registry, "bodies") > before)
        held = sum(not refused(connection) for connection in connections)
        assert held <= 17  # of 64 MiB a quarter, of one MiB each
        other = credential(registry, "quick-1")
        with registry.client(other) as device, registry.client() as admin:
            assert device.post("/v1/devices/quick-1/reports", json={}).status_code == 204
            assert admin.put("/v1/groups/b", json={"selector": "x=1"}).status_code in {200, 201}
    said = Cli(tmp_path, registry.url, registry.admin_token)("doctor", code=None).out
    line = next(line for line in said.splitlines() if " shares " in line)
    assert line.startswith("WARNING")
    assert "slow-1" in line
    assert "bodies" in line


def trickle(connection: socket.socket) -> None:
    """All but the last byte."""
    with contextlib.suppress(OSError):
        connection.sendall(b" " * (MIB - 1))


def refused(connection: socket.socket) -> bool:
    """Was it answered, or cut off?"""
    connection.settimeout(0.2)
    try:
        answer = connection.recv(65536)
    except TimeoutError:
        return False
    except OSError:
        return True
    assert answer == b"" or answer.startswith((b"HTTP/1.1 429 ", b"HTTP/1.1 503 ")), answer[:100]
    return True


def test_one_reader_leaves_the_others_their_event_streams(registry: RegistryProcess, holder: Holder) -> None:
    with holder(registry, "streamer", "read") as reader, registry.client() as admin, contextlib.ExitStack() as stack:
        reader.timeout = httpx.Timeout(30, pool=None)
        opened = []
        head = f"GET /v1/rollout-events HTTP/1.1\r\nHost: x\r\nAuthorization: {reader.headers['authorization']}\r\n\r\n"
        for _ in range(100):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", registry.port), 30))
            connection.sendall(head.encode())
            opened.append(connection.recv(4096)[:12])
        assert opened.count(b"HTTP/1.1 200") == 64
        assert opened.count(b"HTTP/1.1 429") == 36
        with admin.stream("GET", "/v1/rollout-events") as stream:
            assert stream.status_code == 200
        problem(reader.get("/v1/rollout-events"), 429, "over_share")


def test_one_caller_at_full_speed_has_a_part_of_the_turns(registry: RegistryProcess, holder: Holder) -> None:
    """Many requests at once of one token: another token's are answered all the same, while those wait."""
    stop, answered, odd = threading.Event(), [0] * 60, list[object]()

    def flood(number: int, client: httpx.Client) -> None:
        while not stop.is_set():
            try:
                odd.extend({client.get("/v1/fleet").status_code} - {200})
            except httpx.HTTPError as error:
                odd.append(repr(error))
            answered[number] += 1

    with holder(registry, "flood", "read") as many, holder(registry, "modest", "read") as modest:
        threads = [threading.Thread(target=flood, args=(number, many)) for number in range(len(answered))]
        for thread in threads:
            thread.start()
        try:
            until(lambda: sum(answered) > 100)
            before = sum(answered)
            for _ in range(20):
                assert modest.get("/v1/fleet").status_code == 200
            during = sum(answered) - before
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
    assert odd == []
    # Of 60 that ask at once ten are worked on: for each answer of the other there are about ten, not sixty.
    assert during < 20 * 40
