"""What a broker states that it does not take is kept: nobody is disconnected for it, and what cannot go is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from registry.client.devices import Client
from scripts.demo.processes import wait_until
from tests.support.clients.mqtt_device import MqttDevice
from tests.support.models.onnx_models import scaled
from tests.support.network.broker import Mosquitto
from tests.support.programs.fleet import Fleet
from tests.support.programs.fleet_registry import FleetRegistry, eventually, facts

CPU = {"name": "cpu", "target": "cpu"}


@pytest.fixture
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mosquitto]:
    server = Mosquitto(tmp_path, extra=request.param).start()
    yield server
    server.stop()


@pytest.mark.parametrize("limited", ["max_packet_size 1200"], indirect=True)
def test_a_document_that_is_too_long_for_the_broker_hurts_only_its_own_device(
    limited: Mosquitto, tmp_path: Path
) -> None:
    with FleetRegistry(tmp_path, limited.port) as registry:
        eventually(lambda: registry.mqtt() == "connected")
        tokens = {name: registry.ask("PUT", f"/v1/devices/{name}", {}, 201)["token"] for name in ("large", "small")}
        large = MqttDevice(limited.port, registry.prefix, "large", kinds=("desired", "notice"))
        small = MqttDevice(limited.port, registry.prefix, "small")
        for number in range(12):
            registry.publish(f"model-{number}", "1.0.0", CPU)
            registry.ask("PUT", f"/v1/devices/large/deployments/model-{number}", {"version": "1.0.0"})
        registry.ask("PUT", "/v1/devices/small/deployments/model-0", {"version": "1.0.0"})
        eventually(lambda: "model-0" in small.newest().get("models", {}))
        notice = eventually(lambda: next((n for n in large.notices if n.get("poll")), None))
        assert notice == {"device": "large", "poll": True}
        with registry.process.client(tokens["large"]) as own:
            assert len(own.get("/v1/devices/large/desired").json()["models"]) == 12
        assert registry.mqtt() == "connected"
        metrics = registry.http.get("/metrics").text
        assert 'modelfleet_registry_mqtt_documents_total{outcome="too_large"} ' in metrics
        assert 'outcome="too_large"} 0.0' not in metrics
        assert "disconnected" not in (tmp_path / "registry.log").read_text()
        large.close()
        small.close()


@pytest.mark.parametrize("limited", ["retain_available false", "max_qos 0"], indirect=True)
def test_a_broker_without_retained_messages_or_qos_1_carries_what_it_can_and_it_is_said(
    limited: Mosquitto, tmp_path: Path
) -> None:
    with FleetRegistry(tmp_path, limited.port) as registry:
        said = eventually(lambda: (text := registry.mqtt()).startswith("the broker has no") and text)
        assert "devices ask and tell over HTTP" in said
        registry.ask("PUT", "/v1/devices/d1", {}, 201)
        device = MqttDevice(limited.port, registry.prefix, "d1", will=False)
        registry.publish("lenet", "1.0.0", CPU)
        registry.ask("PUT", "/v1/devices/d1/deployments/lenet", {"version": "1.0.0"})
        eventually(lambda: "lenet" in device.newest().get("models", {}))
        assert "disconnected" not in (tmp_path / "registry.log").read_text()
        device.close()


def test_facts_are_asked_of_a_device_that_was_removed_and_registered_anew(broker: Mosquitto, tmp_path: Path) -> None:
    with FleetRegistry(tmp_path, broker.port, prefix=f"test/{tmp_path.name}") as registry:
        _removed_and_registered_anew(registry, broker)


def _removed_and_registered_anew(registry: FleetRegistry, broker: Mosquitto) -> None:
    host = facts()
    eventually(lambda: registry.mqtt() == "connected")
    registry.ask("PUT", "/v1/devices/d1", {}, 201)
    device = MqttDevice(broker.port, registry.prefix, "d1", kinds=("desired", "notice"))
    device.report(facts=host)
    eventually(lambda: registry.ask("GET", "/v1/devices/d1").get("facts"))
    device.report()
    registry.ask("DELETE", "/v1/devices/d1")
    registry.ask("PUT", "/v1/devices/d1", {}, 201)
    assert device.notices == []
    device.report()
    assert eventually(lambda: device.notices) == [{"device": "d1", "facts_wanted": True}]
    device.report(facts=host)
    eventually(lambda: registry.ask("GET", "/v1/devices/d1").get("facts"))
    device.close()


@pytest.mark.parametrize("lacks", ["retain_available false", "max_qos 0", "max_packet_size 1500"])
def test_an_agent_serves_and_follows_its_registry_at_a_broker_that_lacks_something(lacks: str, tmp_path: Path) -> None:
    with Fleet(tmp_path / "fleet") as fleet:
        fleet.start_broker(lacks + "\n")
        fleet.start_registry()
        token = fleet.add_device("edge-1")
        fast = {"MODELFLEET_AGENT_HEALTH_INTERVAL_S": "1", "MODELFLEET_AGENT_REGISTRY__POLL_INTERVAL_S": "0.1"}
        fleet.start_agent("edge-1", token, lambda: fleet.registry("devices", "show", "edge-1")["online"], **fast)
        for version in ("1", "2"):
            (tmp_path / "model.onnx").write_bytes(scaled(float(version), 4))
            fleet.registry("publish", "scaled", str(tmp_path / "model.onnx"), "--version", version, "--target", "cpu")
            fleet.registry("deploy", f"scaled@{version}", "--device", "edge-1", "--wait", "--timeout", "60")
        if lacks == "max_qos 0":
            return  # this client asks at QoS 1
        with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as client:
            ask = {"x": np.ones((1, 4), np.float32)}
            wait_until(lambda: answers(client, ask) == [2.0] * 4, "an answer of version 2")


def answers(client: Client, feeds: dict[str, np.ndarray]) -> list[float]:
    return [float(value) for value in np.ravel(client.infer("edge-1", "scaled", feeds)["y"])]
