"""When the agent tries again after a connection ended: soon after a steady one, ever later when they do not last."""

from __future__ import annotations

from typing import Any, cast

import pytest

from agent.adapters.network.mqtt import SessionSettings
from agent.config.sections import MqttSettings
from agent.dataplane.mqtt.connection import MAX_FLAPS, RECONNECT, STEADY_SECONDS, Connection, Greeting
from agent.dataplane.mqtt.outbound import Outbound
from registry.contracts.broker import BrokerLimits
from registry.contracts.counters import AGENT_METRICS, Counters
from tests.unit.agent.dataplane.test_outbound import Disk, Wire


class Quiet:
    """Session, link and spooling that have nothing to do."""

    settings = SessionSettings(MqttSettings(), "edge-1", "presence", b"")

    def subscribe(self, filters: object, limits: object) -> list[int]:
        return [1]

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Broker:
    """Opens and ends connections at times of the test's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.counters = Counters(AGENT_METRICS)
        quiet = cast("Any", Quiet())
        self.connection = Connection(
            greeting=Greeting((), "presence", b"", b""),
            session=quiet,
            link=quiet,
            outbound=Outbound(Wire(), Disk(), counters=self.counters),
            counters=self.counters,
            receiver=quiet,
            spooling=quiet,
            metadata=quiet,
            emit=lambda _notice: None,
            post=lambda _call: None,
            clock=lambda: self.now,
        )

    def pause_after(self, seconds: float) -> float:
        """How long the agent waits after a connection of so many seconds."""
        self.connection.connected(session_present=True, limits=BrokerLimits(receive_maximum=10))
        self.connection.subscribed(1, ())
        self.now += seconds
        self.connection.disconnected("taken over")
        assert self.connection.retry_at is not None
        return self.connection.retry_at - self.now


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    monkeypatch.setattr("random.random", lambda: 1.0)
    return Broker()


def test_connections_that_do_not_last_are_farther_and_farther_apart(broker: Broker) -> None:
    pauses = [broker.pause_after(0.1) for _ in range(12)]
    assert pauses == pytest.approx(sorted(pauses))
    assert pauses[0] < pauses[MAX_FLAPS - 1] == pytest.approx(pauses[-1])
    assert pauses[-1] < RECONNECT.cap_s


def test_after_a_connection_that_lasted_the_next_comes_soon(broker: Broker) -> None:
    for _ in range(9):
        broker.pause_after(0.1)
    assert broker.pause_after(STEADY_SECONDS) == pytest.approx(RECONNECT.delay(1, 1.0))
