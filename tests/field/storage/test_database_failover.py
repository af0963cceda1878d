"""A PostgreSQL that is promoted, restarted or full for a while: nothing is lost, and everybody is told the truth."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from registry.contracts.wire import digest_of
from tests.support.clients.mqtt_device import MqttDevice
from tests.support.host.postgres import PostgreSql
from tests.support.network.broker import Mosquitto
from tests.support.programs.fleet_registry import FleetRegistry, eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSql) -> Iterator[PostgreSql]:
    """Of this module, whose tests leave it as it was (the session's is asked for: it skips where none is)."""
    made = PostgreSql(tmp_path_factory.mktemp("mortal-postgresql"), durable=False).start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def registry(
    server: PostgreSql, broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FleetRegistry]:
    folder = tmp_path_factory.mktemp("failover")
    url = {"MODELFLEET_REGISTRY_DATABASE_URL": server.migrated_database()}
    with FleetRegistry(folder, broker.port, prefix=f"test/{folder.name}", **url) as process:
        eventually(lambda: process.mqtt() == "connected")
        yield process


@pytest.fixture
def device(registry: FleetRegistry, broker: Mosquitto, request: pytest.FixtureRequest) -> Iterator[MqttDevice]:
    """One of each test's own."""
    name = "d" + digest_of(request.node.name.encode())[-8:]
    registry.ask("PUT", f"/v1/devices/{name}", {}, 201)
    connected = MqttDevice(broker.port, registry.prefix, name)
    yield connected
    connected.close()


def log_of(registry: FleetRegistry) -> str:
    return (registry.process.folder / "registry.log").read_text()


def kept(registry: FleetRegistry, device: MqttDevice) -> list[int]:
    """The sequence numbers of the health reports that are there; none while nobody can look."""
    answer = registry.http.get(f"/v1/devices/{device.name}/health?limit=100")
    return [] if refused(answer, "busy", "storage_failed") else sorted(item["seq"] for item in answer.json()["items"])


def outcome(registry: FleetRegistry, name: str) -> float:
    metrics = registry.http.get("/metrics").text
    return float(metrics.partition(f'mqtt_messages_total{{outcome="{name}"}} ')[2].partition("\n")[0])


def refused(answer: httpx.Response, *codes: str) -> bool:
    """A refusal that says when to come again; never an error that nobody foresaw."""
    assert answer.status_code in (200, 201, 503), answer.text
    if answer.status_code != 503:
        return False
    assert answer.json()["code"] in codes
    assert int(answer.headers["retry-after"]) > 0
    return True


def test_while_the_database_refuses_writes_nothing_is_acknowledged_and_then_everything_is_stored(
    server: PostgreSql, registry: FleetRegistry, device: MqttDevice
) -> None:
    server.refuse_writes(True)
    try:
        eventually(lambda: refused(registry.http.put("/v1/devices/d2", json={}), "read_only"))
        for seq in range(1, 13):
            device.health(seq, seq)
        answer = eventually(lambda: (a := registry.http.get("/readyz")).status_code == 503 and a)
        assert "no writes" in answer.json()["database"]
        assert answer.json()["blobs"] == "ok"
        assert registry.http.get(f"/v1/devices/{device.name}").status_code == 200
        eventually(lambda: "mqtt_database_retries_total 0.0" not in registry.http.get("/metrics").text)
    finally:
        server.refuse_writes(False)
    eventually(lambda: kept(registry, device) == list(range(1, 13)))
    eventually(lambda: registry.http.get("/readyz").status_code == 200)
    assert (outcome(registry, "poison"), outcome(registry, "dropped")) == (0, 0)
    assert registry.http.put("/v1/devices/d2", json={}).status_code == 201
    assert "Traceback" not in log_of(registry)
    lines = [line for line in log_of(registry).splitlines() if "the database: writing" in line]
    assert len(lines) == 2, lines


def test_a_standby_answers_reads_and_takes_writes_when_it_is_promoted(
    server: PostgreSql, registry: FleetRegistry, device: MqttDevice
) -> None:
    server.become_standby()
    eventually(lambda: refused(registry.http.put("/v1/devices/d2", json={}), "read_only", "busy"))
    eventually(lambda: registry.http.get(f"/v1/devices/{device.name}").status_code == 200)
    for seq in range(1, 6):
        device.health(seq, seq)
    assert refused(registry.http.put("/v1/devices/d2", json={}), "read_only")
    eventually(lambda: registry.http.get("/readyz").status_code == 503)
    server.promote()
    eventually(lambda: kept(registry, device) == list(range(1, 6)))
    eventually(lambda: registry.http.get("/readyz").status_code == 200)
    assert "Traceback" not in log_of(registry)


def cut_sessions(server: PostgreSql) -> None:
    for _ in range(5):
        server.cut_sessions()


def close_the_door(server: PostgreSql) -> None:
    """As while a database is being replaced: no session is taken."""
    names = [str(name) for (name,) in server.execute("SELECT datname FROM pg_database WHERE datname LIKE 'registry_%'")]
    for name in names:
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    server.cut_sessions()
    threading.Event().wait(1)
    for name in names:
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def crash(server: PostgreSql) -> None:
    server.crash()
    server.start()


def take_the_table(server: PostgreSql) -> None:
    """Rights or tables that are missing while a backup is played back."""
    name = str(server.execute("SELECT max(datname) FROM pg_database WHERE datname LIKE 'registry_%'")[0][0])
    server.execute("ALTER TABLE health RENAME TO health_away", name)
    threading.Event().wait(1)
    server.execute("ALTER TABLE health_away RENAME TO health", name)


@pytest.mark.parametrize("weather", [cut_sessions, PostgreSql.restart, crash, close_the_door, take_the_table])
def test_no_message_is_lost_and_no_request_fails_for_good_while_the_database_is(
    server: PostgreSql, registry: FleetRegistry, device: MqttDevice, weather: Callable[[PostgreSql], Any]
) -> None:
    over = threading.Event()
    answers: list[httpx.Response] = []

    def ask() -> None:
        with registry.process.client() as client:
            while not over.is_set():
                answers.append(client.put("/v1/devices/d2", json={}))
                answers.append(client.get(f"/v1/devices/{device.name}"))

    def listen() -> None:
        with registry.process.client() as client:
            while not over.is_set():
                with (
                    contextlib.suppress(httpx.HTTPError),
                    client.stream("GET", "/v1/rollout-events", timeout=2) as events,
                ):
                    for _ in events.iter_bytes():
                        if over.is_set():
                            return

    asking, listening = threading.Thread(target=ask), threading.Thread(target=listen)
    asking.start()
    listening.start()
    try:
        bad = threading.Thread(target=weather, args=(server,))
        bad.start()
        for seq in range(1, 41):
            device.health(seq, seq)
        bad.join(60)
        for seq in range(41, 51):
            device.health(seq, seq)
        eventually(lambda: kept(registry, device) == list(range(1, 51)))
    finally:
        over.set()
        asking.join(60)
        listening.join(60)
    for answer in answers:
        refused(answer, "busy", "storage_failed")
    assert (outcome(registry, "poison"), outcome(registry, "dropped")) == (0, 0)
    eventually(lambda: registry.http.get("/readyz").status_code == 200)
    assert "Traceback" not in log_of(registry)
