"""More messages than the bridge can hold while the database is away: all are stored afterwards, in their order."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path

import pytest
from sqlalchemy import select

from registry.config import Mqtt, RegistryConfig
from registry.db.engine import Database
from registry.db.fleet_rows import HealthRow
from registry.server.composition import build_fleet
from registry.server.mqtt import bridge as mqtt_bridge
from registry.services.shares import ShareRefusals
from registry.services.trust.trust import Trust
from tests.support.clients.mqtt_device import MqttDevice
from tests.support.host.postgres import migrated_file
from tests.support.network.broker import Mosquitto
from tests.support.programs.fleet_registry import eventually

INBOX, BATCH = 40, 10
MESSAGES = INBOX + BATCH + 10


def utc_now() -> datetime:
    return datetime.fromtimestamp(time.time(), tz=timezone.utc)


def test_what_finds_no_room_comes_again_in_order(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_bridge, "INBOX", INBOX)
    monkeypatch.setattr(mqtt_bridge, "BATCH", BATCH)  # what the writer holds while it waits for the database
    monkeypatch.setattr(mqtt_bridge, "PATIENCE_S", 0.01)
    prefix = f"test/{tmp_path.name}"
    config = RegistryConfig(data_dir=tmp_path, mqtt=Mqtt(host="127.0.0.1", port=broker.port, prefix=prefix))
    database = Database(migrated_file(tmp_path))
    trust = Trust(database, tmp_path / "keys", utc_now)
    trust.start()
    fleet = build_fleet(config, utc_now, database, trust.director, ShareRefusals())
    bridge = fleet.bridge
    assert bridge is not None
    fleet.devices.put("d1", {}, utc_now())
    bridge.start()
    try:
        eventually(lambda: bridge.connected)
        device = MqttDevice(broker.port, prefix, "d1")
        with database.write():  # nobody else writes meanwhile
            for seq in range(1, MESSAGES + 1):
                device.health(seq, seq)
            eventually(lambda: bridge.counters.total("registry_mqtt_messages", "dropped"))
        eventually(lambda: len(stored(database)) == MESSAGES)
        assert stored(database) == list(range(1, MESSAGES + 1))
        assert bridge.counters.total("registry_mqtt_messages", "poison") == 0
        device.close()
    finally:
        bridge.stop()
        database.close()


def stored(database: Database) -> list[int]:
    """The sequence numbers, in the order in which they were stored."""
    with database.read() as session:
        documents = session.scalars(select(HealthRow.document).order_by(HealthRow.id)).all()
    return [int(text.partition('"seq":')[2].partition(",")[0].rstrip("}")) for text in documents]
