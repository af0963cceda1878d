"""What devices say over MQTT is kept, and what they should serve reaches them, whoever is killed in between."""

from __future__ import annotations

import json
from math import inf, nan
from pathlib import Path

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.support.clients.mqtt_device import MqttDevice, now
from tests.support.network.broker import Mosquitto
from tests.support.programs.fleet_registry import FleetRegistry, eventually, facts

CPU = {"name": "cpu", "target": "cpu"}


def deploy(registry: FleetRegistry, device: str, version: str = "1.0.0") -> dict[str, object]:
    return dict(registry.ask("PUT", f"/v1/devices/{device}/deployments/lenet", {"version": version}))


def test_presence_follows_birth_and_will(registry: FleetRegistry, broker: Mosquitto) -> None:
    registry.ask("PUT", "/v1/devices/d1", {}, 201)
    device = MqttDevice(broker.port, registry.prefix, "d1")
    device.birth()
    view = eventually(lambda: (v := registry.ask("GET", "/v1/devices/d1")).get("presence") and v)
    assert view["presence"]["online"] is True
    assert view["last_seen"] is not None
    assert [d["name"] for d in registry.ask("GET", "/v1/devices?online=true")["items"]] == ["d1"]
    device.die()
    eventually(lambda: registry.ask("GET", "/v1/devices?online=false")["items"])
    assert registry.ask("GET", "/v1/devices/d1")["presence"]["online"] is False


def test_the_late_will_of_an_earlier_session_is_ignored(registry: FleetRegistry, broker: Mosquitto) -> None:
    registry.ask("PUT", "/v1/devices/d1", {}, 201)
    first = MqttDevice(broker.port, registry.prefix, "d1", session="one")
    first.birth()
    second = MqttDevice(broker.port, registry.prefix, "d1", session="two")
    second.birth()
    first.die()
    second.health(1, 1)
    eventually(lambda: registry.ask("GET", "/v1/devices/d1/health")["items"])
    presence = registry.ask("GET", "/v1/devices/d1")["presence"]
    assert (presence["online"], presence["session_id"]) == (True, "two")
    second.close()


def test_health_is_kept_and_counted_once(registry: FleetRegistry, broker: Mosquitto) -> None:
    registry.ask("PUT", "/v1/devices/d1", {}, 201)
    device = MqttDevice(broker.port, registry.prefix, "d1")
    for seq in range(1, 40):
        device.health(seq, requests=seq * 10, errors={"overloaded": seq})
        device.health(seq, requests=seq * 10, errors={"overloaded": seq})
    restarted = MqttDevice(broker.port, registry.prefix, "d1", session="s2")
    restarted.health(1, requests=5, version="2.0.0")

    def counts() -> dict[str, int]:
        return {c["version"]: c["requests"] for c in registry.ask("GET", "/v1/counts?device=d1")["items"]}

    eventually(lambda: counts() == {"1.0.0": 390, "2.0.0": 5})
    assert registry.ask("GET", "/v1/counts?model=lenet")["items"][0]["errors"] == {"overloaded": 39}
    page = registry.ask("GET", "/v1/devices/d1/health?limit=30")
    rest = registry.ask("GET", f"/v1/devices/d1/health?limit=30&cursor={page['next']}")
    reports = page["items"] + rest["items"]
    assert [(r["session_id"], r["seq"]) for r in reports] == [("s2", 1)] + [("s1", seq) for seq in range(39, 0, -1)]
    device.close()
    restarted.close()


def test_reports_and_events_are_kept(registry: FleetRegistry, broker: Mosquitto) -> None:
    registry.ask("PUT", "/v1/devices/d1", {}, 201)
    device = MqttDevice(broker.port, registry.prefix, "d1")
    report = {"device": "d1", "session_id": "s1", "generation": 1, "at": now(), "facts_digest": "sha256:" + "0" * 64}
    device.say("reported", report | {"facts": facts()}, retain=True)
    event = {"event_id": "e1", "seq": 1, "at": now(), "kind": "deployment", "phase": "serving"}
    for _ in range(3):
        device.say("events", event)
    device.say("events", event | {"event_id": "e2"})
    eventually(lambda: len(registry.ask("GET", "/v1/devices/d1/events")["items"]) == 2)
    view = registry.ask("GET", "/v1/devices/d1")
    assert view["reported"]["generation"] == 1
    assert view["facts"]["arch"] == "x86_64"
    device.close()


def test_results_are_kept_only_while_the_model_says_so(registry: FleetRegistry, broker: Mosquitto) -> None:
    registry.publish("lenet", "1.0.0", CPU)
    registry.ask("PUT", "/v1/devices/d1", {}, 201)
    deploy(registry, "d1")
    device = MqttDevice(broker.port, registry.prefix, "d1")
    device.say("results/lenet", {"model_name": "lenet", "model_version": "1.0.0", "id": "before"})
    device.say("events", {"event_id": "marker", "seq": 1, "at": now(), "kind": "agent"})
    eventually(lambda: registry.ask("GET", "/v1/devices/d1/events")["items"])
    registry.ask("PATCH", "/v1/models/lenet", {"record_results": True})
    eventually(lambda: device.newest().get("models", {}).get("lenet", {}).get("record_results"))
    device.say("results/lenet", {"model_name": "lenet", "model_version": "1.0.0", "id": "r1", "outputs": [nan, -inf]})
    header = b'{"model_version":"1.0.0","id":"r2"}'
    binary = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    binary.UserProperty = [("Inference-Header-Content-Length", str(len(header)))]
    device.say("results/lenet", header + bytes(4), properties=binary)
    results = eventually(lambda: (r := registry.ask("GET", "/v1/results")["items"]) and len(r) == 2 and r)
    assert [(r["request_id"], r["version"]) for r in results] == [("r2", "1.0.0"), ("r1", "1.0.0")]
    assert results[1]["body"]["outputs"] == ["NaN", "-Infinity"], "JSON proper has no tokens for them"
    assert results[0]["header_length"] == len(header)
    registry.ask("PATCH", "/v1/models/lenet", {"record_results": False})
    eventually(lambda: not device.newest()["models"]["lenet"].get("record_results"))
    device.close()


def test_a_deployment_reaches_the_device_retained(registry: FleetRegistry, broker: Mosquitto) -> None:
    registry.publish("lenet", "1.0.0", CPU)
    registry.ask("PUT", "/v1/devices/d1", {}, 201)
    connected = MqttDevice(broker.port, registry.prefix, "d1")
    generation = deploy(registry, "d1")["generation"]
    eventually(lambda: connected.newest().get("generation") == generation)
    late = MqttDevice(broker.port, registry.prefix, "d1")
    eventually(lambda: late.newest().get("generation") == generation)
    assert late.desired[-1] == registry.http.get("/v1/devices/d1/desired").content
    registry.ask("DELETE", "/v1/devices/d1", status=204)
    eventually(lambda: connected.desired[-1] == b"")
    connected.close()
    late.close()


def test_poison_is_skipped_and_counted(registry: FleetRegistry, broker: Mosquitto) -> None:
    registry.ask("PUT", "/v1/devices/d1", {}, 201)
    device = MqttDevice(broker.port, registry.prefix, "d1")
    for poison in (b"", b"{", b"\xff", b"[" * 10_000, b'{"device": "other"}'):
        for kind in ("health", "presence", "reported", "events"):
            device.say(kind, poison)
    stranger = MqttDevice(broker.port, registry.prefix, "stranger")
    stranger.health(1, 1)
    device.health(1, 1)
    eventually(lambda: registry.ask("GET", "/v1/devices/d1/health")["items"])
    metrics = registry.http.get("/metrics").text
    assert 'modelfleet_registry_mqtt_messages_total{outcome="poison"} 20.0' in metrics
    assert 'modelfleet_registry_mqtt_messages_total{outcome="unknown"} 1.0' in metrics
    assert 'modelfleet_registry_mqtt_messages_total{outcome="stored"} 1.0' in metrics
    assert registry.http.get("/v1/devices/stranger").status_code == 404
    device.close()
    stranger.close()


def test_a_message_that_the_database_refuses_holds_up_no_other(registry: FleetRegistry, broker: Mosquitto) -> None:
    for name in ("bad", "good"):
        registry.ask("PUT", f"/v1/devices/{name}", {}, 201)
    bad = MqttDevice(broker.port, registry.prefix, "bad")
    good = MqttDevice(broker.port, registry.prefix, "good")
    bad.health(1, 1)
    eventually(lambda: registry.ask("GET", "/v1/counts?device=bad")["items"])
    registry.sql("UPDATE counts SET requests = :most", most=(1 << 63) - 1)
    for seq in range(2, 12):
        bad.health(seq, seq)
        good.health(seq, seq)
    eventually(lambda: [c["requests"] for c in registry.ask("GET", "/v1/counts?device=good")["items"]] == [11])
    eventually(lambda: 'messages_total{outcome="poison"} 10.0' in registry.http.get("/metrics").text)
    assert registry.mqtt() == "connected"
    bad.close()
    good.close()


def test_a_registry_killed_between_commit_and_publish_publishes_after_its_restart(
    mortal_registry: FleetRegistry, mortal_broker: Mosquitto
) -> None:
    registry = mortal_registry
    registry.publish("lenet", "1.0.0", CPU)
    registry.ask("PUT", "/v1/devices/d1", {}, 201)
    mortal_broker.kill()
    generation = deploy(registry, "d1")["generation"]
    registry.process.kill()
    mortal_broker.start()
    registry.process.start()
    device = MqttDevice(mortal_broker.port, registry.prefix, "d1")
    eventually(lambda: device.newest().get("generation") == generation)
    device.close()


def test_what_devices_say_while_the_registry_is_dead_is_kept(
    mortal_registry: FleetRegistry, mortal_broker: Mosquitto
) -> None:
    registry = mortal_registry
    registry.ask("PUT", "/v1/devices/d1", {}, 201)
    device = MqttDevice(mortal_broker.port, registry.prefix, "d1")
    for seq in range(1, 200):
        device.health(seq, requests=seq)
        if seq == 50:
            registry.process.kill()
    registry.process.start()
    eventually(lambda: [c["requests"] for c in registry.ask("GET", "/v1/counts")["items"]] == [199])
    assert registry.sql("SELECT count(*) FROM health") == [(199,)]
    device.close()


def test_a_broker_that_lost_everything_gets_everything_again(
    mortal_registry: FleetRegistry, mortal_broker: Mosquitto
) -> None:
    registry = mortal_registry
    registry.ask("PUT", "/v1/devices/d1", {}, 201)
    registry.ask("PUT", "/v1/devices/d2", {}, 201)
    mortal_broker.kill()
    eventually(lambda: "disconnected" in registry.mqtt() or "no connection" in registry.mqtt())
    assert registry.ask("GET", "/v1/devices/d1/desired")["generation"] == 1
    mortal_broker.start()
    devices = [MqttDevice(mortal_broker.port, registry.prefix, name) for name in ("d1", "d2")]
    for device in devices:
        eventually(lambda device=device: device.newest().get("generation") == 1)  # type: ignore[misc]
    devices[0].birth()
    eventually(lambda: registry.ask("GET", "/v1/devices?online=true")["items"])
    for device in devices:
        device.close()


@pytest.mark.parametrize("broker_port", [None, 1])
def test_http_works_without_a_broker(broker_port: int | None, tmp_path: Path) -> None:
    with FleetRegistry(tmp_path, broker_port) as registry:
        registry.ask("PUT", "/v1/devices/d1", {}, 201)
        assert json.loads(registry.http.get("/v1/devices/d1/desired").content)["device"] == "d1"
        assert registry.mqtt() != "connected"
