"""Who is there is found out again: after a broker that died with a device, a queue that overflowed, a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paho.mqtt import publish

from tests.support.clients.mqtt_device import MqttDevice, now
from tests.support.network.broker import Mosquitto
from tests.support.programs.fleet_registry import FleetRegistry, as_json, eventually

FACTS = "sha256:" + 64 * "0"


def fleet(folder: Path, broker: Mosquitto | None, expiry_s: float = 600) -> FleetRegistry:
    port = broker.port if broker is not None else None
    return FleetRegistry(folder, port, MODELFLEET_REGISTRY_PRESENCE__EXPIRY_S=str(expiry_s))


def view(registry: FleetRegistry) -> dict[str, Any]:
    return dict(registry.ask("GET", "/v1/devices/d1"))


def listed(registry: FleetRegistry, online: bool) -> list[str]:
    found = registry.ask("GET", f"/v1/devices?online={str(online).lower()}")["items"]
    return [device["name"] for device in found]


def presence(session: str, online: bool = True) -> bytes:
    return as_json({"device": "d1", "online": online, "session_id": session, "at": now()})


def retain(broker: Mosquitto, registry: FleetRegistry, payload: bytes, qos: int = 1) -> None:
    """Put something on the device's presence topic, as another client: it stays when its writer is dead."""
    topic = f"{registry.prefix}/devices/d1/presence"
    publish.single(topic, payload, qos=qos, retain=True, hostname="127.0.0.1", port=broker.port)


def test_a_device_that_died_together_with_the_broker_is_offline(mortal_broker: Mosquitto, tmp_path: Path) -> None:
    """The broker comes back with `online: true` retained, and no will is there to replace it."""
    with fleet(tmp_path, mortal_broker, expiry_s=2) as registry:
        eventually(lambda: registry.mqtt() == "connected")
        registry.ask("PUT", "/v1/devices/d1", {}, 201)
        device = MqttDevice(mortal_broker.port, registry.prefix, "d1")
        device.birth()
        eventually(lambda: view(registry)["online"])
        mortal_broker.kill()
        device.close()
        mortal_broker.start()
        retain(mortal_broker, registry, presence("s1"))
        eventually(lambda: registry.mqtt() == "connected")
        eventually(lambda: listed(registry, online=False) == ["d1"])
        assert listed(registry, online=True) == []
        assert view(registry)["presence"]["online"] is True  # that is what the broker has
        # The figures of the whole fleet are counted now and then.
        eventually(lambda: 'modelfleet_devices{presence="offline"} 1.0' in registry.http.get("/metrics").text)


def test_what_the_broker_dropped_for_the_registry_is_read_where_it_is_retained(
    mortal_broker: Mosquitto, tmp_path: Path
) -> None:
    """The registry's session stays at the broker, which drops messages for it: as when its queue overflows."""
    with fleet(tmp_path, mortal_broker) as registry:
        eventually(lambda: registry.mqtt() == "connected")
        registry.ask("PUT", "/v1/devices/d1", {}, 201)
        retain(mortal_broker, registry, presence("s1"))
        eventually(lambda: view(registry).get("online"))
        registry.process.stop()
        retain(mortal_broker, registry, presence("s1", online=False), qos=0)  # QoS 0 is not queued
        registry.process.start()
        eventually(lambda: not view(registry)["online"])


def test_a_report_over_http_is_a_sign_of_life_after_the_will(mortal_broker: Mosquitto, tmp_path: Path) -> None:
    with fleet(tmp_path, mortal_broker) as registry:
        eventually(lambda: registry.mqtt() == "connected")
        token = registry.ask("PUT", "/v1/devices/d1", {}, 201)["token"]
        device = MqttDevice(mortal_broker.port, registry.prefix, "d1")
        device.birth()
        eventually(lambda: view(registry)["online"])
        device.die()
        eventually(lambda: not view(registry)["online"])
        reported = {
            "device": "d1",
            "session_id": "s1",
            "generation": 0,
            "at": now(),
            "facts_digest": "sha256:" + 64 * "0",
        }
        with registry.process.client(token) as own:
            own.post("/v1/devices/d1/reports", json={"reported": reported}).raise_for_status()
        assert view(registry)["online"]
        assert listed(registry, online=True) == ["d1"]


def test_a_registry_that_was_away_does_not_take_that_time_for_silence(tmp_path: Path) -> None:
    with fleet(tmp_path, None) as registry:
        token = registry.ask("PUT", "/v1/devices/d1", {}, 201)["token"]
        with registry.process.client(token) as own:
            own.get("/v1/devices/d1/desired").raise_for_status()
        reported = {
            "device": "d1",
            "session_id": "s1",
            "generation": 0,
            "at": now(),
            "facts_digest": "sha256:" + 64 * "0",
        }
        with registry.process.client(token) as own:
            own.post("/v1/devices/d1/reports", json={"reported": reported}).raise_for_status()
        registry.process.stop()
        hour = "'-1 hour'"
        for column in ("last_seen", "heard_until"):
            registry.sql(f"UPDATE device_states SET {column} = strftime('%Y-%m-%d %H:%M:%f000', {column}, {hour})")
        registry.sql(f"UPDATE registry_state SET listened_at = strftime('%Y-%m-%d %H:%M:%f000', listened_at, {hour})")
        registry.process.start()
        eventually(lambda: view(registry)["online"])


def test_two_agents_of_one_name_are_an_alert(mortal_broker: Mosquitto, tmp_path: Path) -> None:
    with fleet(tmp_path, mortal_broker) as registry:
        eventually(lambda: registry.mqtt() == "connected")
        registry.ask("PUT", "/v1/devices/d1", {}, 201)
        for number in range(1, 5):
            for session in ("one", "two"):
                device = MqttDevice(mortal_broker.port, registry.prefix, "d1", session=session)
                device.health(number, 1)
                device.close()
        assert set(eventually(lambda: view(registry)["rivals"])) == {"one", "two"}
        assert "modelfleet_devices_with_two_agents 1.0" in registry.http.get("/metrics").text
        events = registry.ask("GET", "/v1/devices/d1/events")["items"]
        assert [event["code"] for event in events] == ["two_agents"]
