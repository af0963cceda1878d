"""Somebody without any token opens connections and says nothing, or half a request."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.network.broker import Mosquitto, free_port, wait_for_port
from tests.support.programs.registry_process import PROGRAM, RegistryProcess

HALF = b"GET /v1/models HTTP/1.1\r\nHost: registry\r\nX-Half: "


@pytest.fixture(autouse=True)
def _this_process_may_open_them() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 6000 if hard == resource.RLIM_INFINITY else min(6000, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd:
    """Half-open connections from many addresses of this host."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.connections: list[socket.socket] = []

    def open(self, count: int, address: str) -> None:
        """So many, each with the beginning of a request. What is refused is refused."""
        for _ in range(count):
            with contextlib.suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", self._port), 10, source_address=(address, 0))
                self.connections.append(connection)
                connection.sendall(HALF)

    def close(self) -> None:
        """All."""
        for connection in self.connections:
            connection.close()


@pytest.fixture
def crowd_at() -> Iterator[Callable[[int], Crowd]]:
    made: list[Crowd] = []

    def make(port: int) -> Crowd:
        made.append(Crowd(port))
        return made[-1]

    yield make
    for crowd in made:
        crowd.close()


@contextlib.contextmanager
def registry_with_files(folder: Path, files: int) -> Iterator[tuple[int, Path]]:
    """A registry whose system lets it open so many; its port and its log."""
    port, log = free_port(), folder / "registry.log"
    limit = f"ulimit -Sn {files // 4} && ulimit -Hn {files} && exec "
    command = f"{limit}{PROGRAM} serve --port {port} --data-dir {folder / 'data'}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MODELFLEET_")}
    with log.open("wb") as stream:
        process = subprocess.Popen(["sh", "-c", command], stdout=stream, stderr=stream, env=environment)
    try:
        wait_for_port(port, 60)
        yield port, log
    finally:
        process.terminate()
        process.wait(30)


def test_1300_half_open_connections_do_not_end_service_where_1024_files_may_be_open(
    tmp_path: Path, crowd_at: Callable[[int], Crowd]
) -> None:
    with registry_with_files(tmp_path, 1024) as (port, log):
        said = re.search(r"up to (\d+) connections at once, up to (\d+) of one address", log.read_text())
        assert said is not None
        total, each = int(said[1]), int(said[2])
        assert 200 < total < 1024  # of 256 that were allowed at first
        assert each <= total / 4
        crowd = crowd_at(port)
        token = (tmp_path / "data" / "admin.token").read_text().strip()
        crowd.open(1300, "127.0.0.2")
        assert answers(port, 20) == 20
        assert figures(port, token)["modelfleet_connections"] <= each + 2
        for number in range(3, 16):
            crowd.open(100, f"127.0.0.{number}")
        assert answers(port, 20) == 20
        found = figures(port, token)
        assert found["modelfleet_connections"] <= total
        assert found["modelfleet_connections_given_up_total"] > 1000


def answers(port: int, count: int) -> int:
    """How many of so many requests, each over a connection of its own, are answered."""
    good = 0
    for _ in range(count):
        with contextlib.suppress(httpx.TransportError):
            good += httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=30, trust_env=False).status_code == 200
    return good


def figures(port: int, token: str) -> dict[str, float]:
    """Of `/metrics`, those without labels."""
    headers = {"Authorization": f"Bearer {token}"}
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=headers, timeout=30, trust_env=False).text
    lines = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in lines if "{" not in name}


def test_requests_of_others_are_not_given_up_for_a_crowd(tmp_path: Path, crowd_at: Callable[[int], Crowd]) -> None:
    """Idle connections of the crowd go first; who has a request keeps its connection."""
    server = RegistryProcess(tmp_path, {"MODELFLEET_REGISTRY_LIMITS__CONNECTIONS": "64"}).start()
    try:
        crowd = crowd_at(server.port)
        with server.client() as admin, admin.stream("GET", "/v1/rollout-events") as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("retry")
            for number in range(2, 12):
                crowd.open(40, f"127.0.0.{number}")
            assert admin.get("/v1/models").status_code == 200
            made = admin.put("/v1/groups/all", json={"selector": "site=a"})
            assert made.status_code in {200, 201}, made.text
            assert stream.status_code == 200
            assert not stream.is_closed
    finally:
        server.stop()


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 6000, reason="too few files may be open here")
def test_a_registry_with_over_a_thousand_connections_comes_back_to_its_broker(
    tmp_path: Path, mortal_broker: Mosquitto, crowd_at: Callable[[int], Crowd]
) -> None:
    settings = {
        "MODELFLEET_REGISTRY_MQTT__HOST": "127.0.0.1",
        "MODELFLEET_REGISTRY_MQTT__PORT": str(mortal_broker.port),
    }
    server = RegistryProcess(tmp_path, settings | {"MODELFLEET_REGISTRY_LIMITS__HEADER_TIMEOUT_S": "300"}).start()
    try:
        crowd = crowd_at(server.port)
        for number in range(2, 6):
            crowd.open(400, f"127.0.0.{number}")
        with server.client() as admin:
            until(lambda: admin.get("/readyz").json()["mqtt"] == "connected")
            assert figures(server.port, server.admin_token)["modelfleet_connections"] > 1200
            mortal_broker.kill()
            until(lambda: admin.get("/readyz").json()["mqtt"] != "connected")
            mortal_broker.start()
            until(lambda: admin.get("/readyz").json()["mqtt"] == "connected")
            assert highest_socket(server.pid) > 1200
    finally:
        server.stop()


def highest_socket(pid: int) -> int:
    """The largest number of an open file."""
    return max(int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir())


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
