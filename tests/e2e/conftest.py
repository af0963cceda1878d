"""One fleet of real processes for a module: Mosquitto, `registry serve`, `agent run`, each started by its command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from registry.client.devices import Client
from tests.support.programs.fleet import Fleet

DEVICE = "edge-1"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Broker and registry run, `edge-1` is online; no model is published."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as running:
        running.start_broker()
        running.start_registry()
        running.start_agent(
            DEVICE,
            running.add_device(DEVICE),
            MODELFLEET_AGENT_HEALTH_INTERVAL_S="1",
            MODELFLEET_AGENT_MQTT__HOME_ASSISTANT="homeassistant",
            MODELFLEET_AGENT_MQTT__POOLS='{"cameras": ["lenet"]}',
        )
        yield running


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Client]:
    """An MQTT 5 client of that fleet."""
    with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as connected:
        yield connected
