"""One device says as much as it can, over MQTT and over HTTP."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import paho.mqtt.client as paho
import pytest

from registry.services.intake.budgets import MESSAGES_BURST
from registry.services.intake.kept import EVENTS, PART
from tests.integration.registry.server.test_publishing import problem
from tests.support.network.broker import Mosquitto
from tests.support.programs.cli import Cli
from tests.support.programs.registry_process import RegistryProcess

FLOOD = 12_000
AT = "2026-11-28T12:00:00Z"


def event(number: int, size: int = 10) -> dict[str, object]:
    return {"event_id": f"e{number}", "seq": number, "at": AT, "kind": "agent", "message": "m" * size}


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Flooded(RegistryProcess):
    """A registry at a broker."""

    def stored(self, device: str) -> tuple[int, int]:
        """Events of the device, and their bytes."""
        query = (
            "SELECT count(*), coalesce(sum(length(document)), 0) FROM events JOIN devices "
            "ON devices.id = events.device_id WHERE devices.name = ?"
        )
        with sqlite3.connect(f"file:{self.data / 'registry.db'}?mode=ro", uri=True) as database:
            count, size = database.execute(query, (device,)).fetchone()
        return int(count), int(size)

    def outcome(self, name: str) -> float:
        """Of the bridge's messages."""
        with self.client() as admin:
            lines = admin.get("/metrics").text.splitlines()
        begins = f'modelfleet_registry_mqtt_messages_total{{outcome="{name}"}}'
        return float(next(line for line in lines if line.startswith(begins)).split()[1])

    def device(self, name: str) -> httpx.Client:
        """Makes a device; a client with its credential."""
        with self.client() as admin:
            return self.client(admin.put(f"/v1/devices/{name}", json={"labels": {}}).json()["token"])


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, broker: Mosquitto) -> Iterator[Flooded]:
    settings = {
        "MODELFLEET_REGISTRY_MQTT__HOST": "127.0.0.1",
        "MODELFLEET_REGISTRY_MQTT__PORT": str(broker.port),
        "MODELFLEET_REGISTRY_MQTT__PREFIX": "flooded",
    }
    server = Flooded(tmp_path_factory.mktemp("flood"), settings)
    server.start()
    with server.client() as admin:
        until(lambda: admin.get("/readyz").json()["mqtt"] == "connected")
    yield server
    server.stop()


def test_a_flood_over_mqtt_leaves_the_bridge_to_the_others(
    registry: Flooded, broker: Mosquitto, tmp_path: Path
) -> None:
    registry.device("flood-1").close()
    registry.device("quiet-1").close()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.max_queued_messages_set(0)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        for number in range(FLOOD):
            client.publish("flooded/devices/flood-1/events", json.dumps(event(number)), qos=1)
            if number % 200 == 0:
                client.publish("flooded/devices/quiet-1/events", json.dumps(event(number)), qos=1)
        last = client.publish("flooded/devices/quiet-1/events", json.dumps(event(FLOOD)), qos=1)
        last.wait_for_publish(120)
        until(lambda: registry.stored("quiet-1")[0] == FLOOD // 200 + 1)
        until(lambda: registry.outcome("over_share") + registry.stored("flood-1")[0] >= FLOOD)
    finally:
        client.disconnect()
        client.loop_stop()
    kept, _ = registry.stored("flood-1")
    assert MESSAGES_BURST <= kept < FLOOD
    assert registry.outcome("over_share") > 0
    assert registry.outcome("dropped") == 0
    line = next(
        line
        for line in Cli(tmp_path, registry.url, registry.admin_token)("doctor").out.splitlines()
        if " shares " in line
    )
    assert "flood-1 (messages" in line


def test_a_flood_over_http_is_told_when_to_come_again_and_keeps_a_bounded_part_of_the_disk(registry: Flooded) -> None:
    with registry.device("flood-2") as flood, registry.device("quiet-2") as quiet:
        sent, answer = 0, None
        while sent < 4 * MESSAGES_BURST:
            events = [event(sent + number, 2048) for number in range(200)]
            answer = flood.post("/v1/devices/flood-2/reports", json={"events": events})
            if answer.status_code != 204:
                break
            sent += len(events)
        assert answer is not None
        problem(answer, 429, "over_share")
        assert int(answer.headers["retry-after"]) >= 1
        assert sent >= MESSAGES_BURST - 200
        assert quiet.post("/v1/devices/quiet-2/reports", json={"events": [event(1)]}).status_code == 204
        _, size = registry.stored("flood-2")
        assert size <= EVENTS.bytes * (1 + 1 / PART)
        assert registry.stored("quiet-2")[0] == 1
