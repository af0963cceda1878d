"""A TCP relay before the session's broker, which a test may cut, stop or slow down."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.network.broker import Mosquitto
from tests.support.network.proxy import Proxy


@pytest.fixture
def proxy(broker: Mosquitto) -> Iterator[Proxy]:
    relay = Proxy(broker.port)
    yield relay
    relay.close()
