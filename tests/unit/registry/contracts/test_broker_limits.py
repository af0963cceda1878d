"""What a broker states in its CONNACK, and the packets that keep to it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from registry.contracts.broker import BrokerLimits, in_packets, limits_of, publish_bytes, subscribable

FILTERS = ["a/b", "a/+/c", "a/#", "$share/p/a/b"]


def test_a_broker_that_states_nothing_has_the_limits_of_the_protocol() -> None:
    assert limits_of(None) == limits_of(SimpleNamespace()) == BrokerLimits()
    assert BrokerLimits().control_is_whole
    assert BrokerLimits().missing() == ()


def test_every_limit_is_read() -> None:
    stated = SimpleNamespace(
        ReceiveMaximum=5, MaximumPacketSize=1000, MaximumQoS=0, RetainAvailable=0, WildcardSubscriptionAvailable=0,
        SharedSubscriptionAvailable=0, ServerKeepAlive=7,
    )  # fmt: skip
    limits = limits_of(stated)
    assert limits == BrokerLimits(5, 1000, 0, False, False, False, 7)
    assert not limits.control_is_whole
    assert limits.missing() == ("retained messages", "subscriptions with wildcards", "QoS 1")
    assert limits.qos == 0


@pytest.mark.parametrize(
    ("limits", "taken"),
    [
        (BrokerLimits(), FILTERS),
        (BrokerLimits(wildcards=False), ["a/b", "$share/p/a/b"]),
        (BrokerLimits(shared=False), ["a/b", "a/+/c", "a/#"]),
    ],
)
def test_only_what_the_broker_takes_is_subscribed(limits: BrokerLimits, taken: list[str]) -> None:
    assert subscribable(FILTERS, limits) == (taken, [each for each in FILTERS if each not in taken])


@pytest.mark.parametrize("longest", [None, 60, 200, 5000])
def test_many_filters_go_in_several_packets_that_the_broker_takes(longest: int | None) -> None:
    filters = [f"fleet/devices/edge/infer/model-{number}" for number in range(333)]
    packets = list(in_packets(filters, BrokerLimits(maximum_packet=longest)))
    assert [each for packet in packets for each in packet] == filters
    assert len(packets) > 1
    for packet in packets:
        size = 1 + 4 + 2 + 1 + sum(2 + len(each) + 1 for each in packet)
        assert longest is None or size <= longest


def test_a_document_is_too_long_by_its_whole_packet() -> None:
    limits = BrokerLimits(maximum_packet=1000)
    assert limits.takes("t", 900)
    assert not limits.takes("t", 1000)
    assert publish_bytes("t", 900) > 900
