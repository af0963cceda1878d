"""A TCP relay before the session's broker, which a test may cut, stop or slow down; a data path that is back soon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.dataplane.mqtt import connection
from registry.contracts.backoff import Backoff
from tests.support.network.broker import Mosquitto
from tests.support.network.proxy import Proxy


@pytest.fixture(autouse=True)
def _it_comes_back_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that are cut one after the other are not made farther and farther apart."""
    monkeypatch.setattr(connection, "RECONNECT", Backoff(0.02, 0.1))


@pytest.fixture
def proxy(broker: Mosquitto) -> Iterator[Proxy]:
    relay = Proxy(broker.port)
    yield relay
    relay.close()
