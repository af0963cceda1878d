"""A device with its data path, workers in threads, behind a broker; and a client that asks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.client.devices import Client
from tests.fakes.workers import FakeWorker
from tests.support.clients.serving import Serving
from tests.support.network.broker import Mosquitto
from tests.support.network.proxy import Proxy


@pytest.fixture
def device(broker: Mosquitto, tmp_path: Path) -> Iterator[Serving]:
    serving = Serving(broker.port, tmp_path)
    serving.serve(FakeWorker())
    serving.start()
    yield serving
    serving.stop()


@pytest.fixture
def proxy(broker: Mosquitto) -> Iterator[Proxy]:
    """Between the client and the broker."""
    relay = Proxy(broker.port)
    yield relay
    relay.close()


@pytest.fixture(params=["5", "3.1.1"])
def client(request: pytest.FixtureRequest, broker: Mosquitto, device: Serving) -> Iterator[Client]:
    url = f"mqtt://127.0.0.1:{broker.port}"
    with Client(url, prefix=device.topics.prefix, protocol=request.param) as fleet:
        yield fleet
