"""Smaller attacks: a forged will, fields that nobody knows, numbers beyond a database, folders that others may read."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from tests.contracts.test_wire_golden import GOLDEN
from tests.support.network.broker import Mosquitto
from tests.support.programs.registry_process import RegistryProcess

AT = "2026-11-28T12:00:00Z"


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Attacked(RegistryProcess):
    """A registry, and a connection to its broker that says what it likes."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        settings = {
            "MODELFLEET_REGISTRY_MQTT__HOST": "127.0.0.1",
            "MODELFLEET_REGISTRY_MQTT__PORT": str(broker.port),
            "MODELFLEET_REGISTRY_MQTT__PREFIX": "attacked",
        }
        super().__init__(folder, settings)
        self.client_of_broker = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client_of_broker.connect("127.0.0.1", broker.port)
        self.client_of_broker.loop_start()

    def say(self, device: str, kind: str, document: dict[str, object]) -> None:
        """Publishes it, and waits for the broker."""
        topic = f"attacked/devices/{device}/{kind}"
        self.client_of_broker.publish(topic, json.dumps(document), qos=1).wait_for_publish(30)

    def connection(self, device: str) -> str:
        """As the registry sees the device."""
        with self.client() as admin:
            return str(admin.get(f"/v1/devices/{device}").json()["connection"])

    def texts(self, query: str) -> list[str]:
        """From its database."""
        with sqlite3.connect(f"file:{self.data / 'registry.db'}?mode=ro", uri=True) as database:
            return [str(row[0]) for row in database.execute(query) if row[0] is not None]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, broker: Mosquitto) -> Iterator[Attacked]:
    server = Attacked(tmp_path_factory.mktemp("doors"), broker)
    server.start()
    with server.client() as admin:
        until(lambda: admin.get("/readyz").json()["mqtt"] == "connected")
        admin.put("/v1/devices/edge-1", json={"labels": {}}).raise_for_status()
    yield server
    server.client_of_broker.disconnect()
    server.client_of_broker.loop_stop()
    server.stop()


def health(seq: int, **more: object) -> dict[str, object]:
    found = json.loads((GOLDEN / "health.json").read_text())
    return {**found, "device": "edge-1", "session_id": "s1", "seq": seq, **more}


def test_a_forged_will_ends_with_the_next_report(registry: Attacked) -> None:
    registry.say("edge-1", "presence", {"device": "edge-1", "online": True, "session_id": "s1", "at": AT})
    until(lambda: registry.connection("edge-1") == "online")
    registry.say("edge-1", "presence", {"device": "edge-1", "online": False, "session_id": "s1"})
    until(lambda: registry.connection("edge-1") == "offline")
    registry.say("edge-1", "health", health(1))
    until(lambda: registry.connection("edge-1") == "online")


def test_what_nobody_knows_is_not_kept(registry: Attacked) -> None:
    registry.say("edge-1", "health", health(100, smuggled="x" * 1000))
    registry.say("edge-1", "events", {"event_id": "e1", "seq": 1, "at": AT, "kind": "agent", "smuggled": [1, 2, 3]})
    with registry.client() as admin:
        body = {"events": [{"event_id": "e2", "seq": 2, "at": AT, "kind": "agent", "smuggled": {"deep": True}}]}
        token = admin.post("/v1/devices/edge-1/credential").json()["token"]
        with registry.client(token) as device:
            device.post("/v1/devices/edge-1/reports", json=body).raise_for_status()
        until(lambda: len(admin.get("/v1/devices/edge-1/events").json()["items"]) >= 2)
        until(lambda: any(each["seq"] == 100 for each in admin.get("/v1/devices/edge-1/health").json()["items"]))
    kept = registry.texts("SELECT document FROM events") + registry.texts("SELECT document FROM health")
    kept += registry.texts("SELECT health FROM device_states")
    assert len(kept) >= 4
    assert not any("smuggled" in text for text in kept)


def test_numbers_beyond_a_database_are_refused_and_the_next_report_is_taken(registry: Attacked) -> None:
    with registry.client() as admin:
        token = admin.post("/v1/devices/edge-1/credential").json()["token"]
    with registry.client(token) as device:
        for number in (1 << 63, 1 << 64, 10**30):
            for body in ({"events": [event(number)]}, {"health": [health(number)]}):
                answer = device.post("/v1/devices/edge-1/reports", json=body)
                assert answer.status_code == 422, answer.text
                assert answer.json()["code"] == "invalid"
        assert device.post("/v1/devices/edge-1/reports", json={"events": [event(7)]}).status_code == 204


def event(seq: int) -> dict[str, object]:
    return {"event_id": f"number-{seq}"[:60], "seq": seq, "at": AT, "kind": "agent"}


def test_a_data_folder_that_others_may_read_is_made_private(tmp_path: Path) -> None:
    server = RegistryProcess(tmp_path)
    server.data.mkdir(mode=0o755)
    os.chmod(server.data, 0o755)
    server.start()
    try:
        assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
    finally:
        server.stop()
    assert "had mode 0755" in (tmp_path / "registry.log").read_text()
