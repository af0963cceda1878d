"""What goes out at QoS 1 keeps to the broker's window, acknowledges in order, and is not lost with the connection."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agent.core.strikes import FIRST_MUTE_S, LONGEST_MUTE_S, LOST_AFTER, MAX_STRIKES
from agent.dataplane.mqtt.outbound import Ack, Outbound, Outgoing
from registry.contracts.broker import BrokerLimits
from registry.contracts.counters import AGENT_METRICS, Counters
from registry.inference.packets import Buffer, text

TOPIC = text(b"replies/a")


class Wire:
    """A Transport that writes down what it sends."""

    def __init__(self) -> None:
        self.sent: list[tuple[object, ...]] = []
        self._mid = 0

    def publish(self, topic: bytes, properties: bytes, pieces: Sequence[Buffer]) -> None:
        self.sent.append(("qos0", b"".join(pieces)))

    def publish_acknowledged(self, topic: bytes, properties: bytes, pieces: Sequence[Buffer], *, retain: bool) -> int:
        self._mid += 1
        self.sent.append(("qos1", b"".join(pieces)))
        return self._mid

    def acknowledge(self, mid: int) -> None:
        self.sent.append(("ack", mid))


class Disk:
    """A Spool in memory. `end_turn` is when it has written; until then nothing that it took may be acknowledged."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self._acks: list[Ack] = []

    def pending(self) -> bool:
        return bool(self.kept)

    def spool(self, message: Outgoing) -> None:
        self.kept.append(message.payload)
        if message.ack is not None:
            self._acks.append(message.ack)

    def end_turn(self, outbound: Outbound) -> None:
        for ack in self._acks:
            outbound.acks.settle(ack)
        self._acks.clear()


def connected(window: int = 100) -> tuple[Outbound, Wire, Disk]:
    wire, disk = Wire(), Disk()
    outbound = Outbound(wire, disk, counters=Counters(AGENT_METRICS))
    outbound.opened(BrokerLimits(window))
    return outbound, wire, disk


def test_requests_are_acknowledged_after_their_reply_and_in_order() -> None:
    outbound, wire, _ = connected()
    first, second = outbound.acks.owe(71), outbound.acks.owe(72)
    outbound.reply(TOPIC, b"", (b"two",), second)
    assert wire.sent == [("qos1", b"two")]
    outbound.reply(TOPIC, b"", (b"one",), first)
    assert wire.sent == [("qos1", b"two"), ("qos1", b"one"), ("ack", 71), ("ack", 72)]


def test_the_brokers_receive_maximum_is_kept() -> None:
    outbound, wire, _ = connected(window=2)
    acks = [outbound.acks.owe(mid) for mid in (1, 2, 3, 4)]
    for number, ack in enumerate(acks):
        outbound.reply(TOPIC, b"", (b"%d" % number,), ack)
    assert [each for each in wire.sent if each[0] == "qos1"] == [("qos1", b"0"), ("qos1", b"1")]
    assert outbound.waiting() == 2
    assert ("ack", 3) not in wire.sent
    assert outbound.puback(1, 0)
    assert wire.sent[-2:] == [("qos1", b"2"), ("ack", 3)]
    assert not outbound.puback(1, 0)


def test_a_qos_0_reply_without_a_connection_is_counted_as_dropped() -> None:
    outbound, wire, disk = connected()
    outbound.closed()
    outbound.reply(TOPIC, b"", (b"x",), None)
    assert (wire.sent, disk.kept, outbound.counters.total("replies_dropped")) == ([], [], 1)


def test_what_is_unacknowledged_at_the_end_of_a_connection_goes_to_disk_in_order() -> None:
    outbound, _, disk = connected(window=1)
    acks = [outbound.acks.owe(mid) for mid in (1, 2)]
    outbound.reply(TOPIC, b"", (b"sent",), acks[0])
    outbound.reply(TOPIC, b"", (b"queued",), acks[1])
    outbound.send(Outgoing(TOPIC, b"", b"kept elsewhere", settled=lambda: None))
    outbound.closed()
    assert disk.kept == [b"sent", b"queued"]
    assert not outbound.unacknowledged
    assert outbound.waiting() == 0


def test_a_reply_that_is_ready_after_the_connection_ended_goes_to_disk_and_acknowledges_nothing() -> None:
    outbound, wire, disk = connected()
    ack = outbound.acks.owe(9)
    outbound.closed()
    outbound.opened(BrokerLimits(10))
    again = outbound.acks.owe(9)
    outbound.reply(TOPIC, b"", (b"late",), ack)
    assert wire.sent == [("qos1", b"late")]
    outbound.reply(TOPIC, b"", (b"again",), again)
    assert wire.sent[1:] == [("qos1", b"again"), ("ack", 9)]
    assert disk.kept == []


def test_results_wait_behind_those_on_disk() -> None:
    outbound, wire, disk = connected()
    disk.kept.append(b"older")
    ack = outbound.acks.owe(5)
    outbound.result(Outgoing(TOPIC, b"", b"newer", ack))
    assert disk.kept == [b"older", b"newer"]
    assert wire.sent == []
    disk.end_turn(outbound)
    assert wire.sent == [("ack", 5)]


def test_refusals_by_the_broker_are_counted_by_reason_and_the_first_of_each_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outbound, _, _ = connected()
    for mid, reason in enumerate((0x87, 0x97, 0x87), 1):
        outbound.reply(TOPIC, b"", (b"x",), outbound.acks.owe(mid))
        assert outbound.puback(mid, reason)
    assert outbound.counters.total("replies_refused") == 3
    assert outbound.counters.figures()["publications_refused"] == {("0x87",): 2, ("0x97",): 1}
    assert [record.getMessage().count("replies/a") for record in caplog.records] == [1, 1]


def test_the_first_dropped_reply_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    outbound, _, _ = connected()
    outbound.closed()
    for _ in range(3):
        outbound.reply(TOPIC, b"", (b"x",), None)
    assert outbound.counters.total("replies_dropped") == 3
    assert len(caplog.records) == 1


def connection_ends_at(outbound: Outbound, topic: bytes, mid: int) -> None:
    """The request comes, its reply is sent, and the broker hangs up."""
    outbound.opened(BrokerLimits(100))
    outbound.reply(topic, b"", (b"reply",), outbound.acks.owe(mid))
    outbound.closed()


def test_a_reply_that_ends_every_connection_waits_on_disk_while_others_go_out() -> None:
    outbound, wire, disk = connected()
    for _ in range(MAX_STRIKES):
        connection_ends_at(outbound, TOPIC, 7)
    outbound.opened(BrokerLimits(100))
    wire.sent.clear()
    disk.kept.clear()
    outbound.reply(TOPIC, b"", (b"reply",), outbound.acks.owe(7))
    outbound.reply(text(b"replies/b"), b"", (b"other",), outbound.acks.owe(8))
    assert wire.sent == [("qos1", b"other")]
    assert disk.kept == [b"reply"]
    disk.end_turn(outbound)
    assert wire.sent == [("qos1", b"other"), ("ack", 7), ("ack", 8)]
    assert outbound.counters.total("replies_refused") == 0


def test_a_topic_that_was_muted_is_tried_again_after_a_while() -> None:
    now = [0.0]
    wire = Wire()
    outbound = Outbound(wire, Disk(), counters=Counters(AGENT_METRICS), clock=lambda: now[0])
    for _ in range(MAX_STRIKES):
        connection_ends_at(outbound, TOPIC, 7)
    outbound.opened(BrokerLimits(100))
    wire.sent.clear()
    now[0] = FIRST_MUTE_S
    outbound.reply(TOPIC, b"", (b"reply",), outbound.acks.owe(7))
    assert wire.sent == [("qos1", b"reply"), ("ack", 7)]


def test_what_ended_connections_for_hours_is_given_up_and_counted() -> None:
    now = [0.0]
    wire, disk = Wire(), Disk()
    outbound = Outbound(wire, disk, counters=Counters(AGENT_METRICS), clock=lambda: now[0])
    for _ in range(LOST_AFTER):
        now[0] += LONGEST_MUTE_S
        connection_ends_at(outbound, TOPIC, 7)
    outbound.opened(BrokerLimits(100))
    wire.sent.clear()
    disk.kept.clear()
    outbound.reply(TOPIC, b"", (b"reply",), outbound.acks.owe(7))
    assert (wire.sent, disk.kept, outbound.counters.total("replies_refused")) == ([("ack", 7)], [], 1)


def test_one_delivered_reply_takes_the_strikes_of_its_topic_back() -> None:
    outbound, wire, _ = connected()
    for _ in range(3):
        for _ in range(MAX_STRIKES - 1):
            connection_ends_at(outbound, TOPIC, 7)
        outbound.opened(BrokerLimits(100))
        outbound.reply(TOPIC, b"", (b"reply",), None)
        outbound.send(Outgoing(TOPIC, b"", b"delivered"))
        outbound.puback(max(outbound.unacknowledged), 0)
    assert wire.sent[-1] == ("qos1", b"delivered")
    assert outbound.counters.total("replies_refused") == 0


def test_the_fleets_own_topics_are_never_given_up() -> None:
    wire = Wire()
    outbound = Outbound(wire, Disk(), counters=Counters(AGENT_METRICS), is_clients=lambda topic: topic != TOPIC)
    for _ in range(MAX_STRIKES + 1):
        connection_ends_at(outbound, TOPIC, 7)
    outbound.opened(BrokerLimits(100))
    outbound.send(Outgoing(TOPIC, b"", b"event"))
    assert wire.sent[-1] == ("qos1", b"event")


def test_what_is_longer_than_the_broker_takes_with_its_correlation_data_is_not_sent() -> None:
    outbound, wire, _ = connected()
    outbound.opened(BrokerLimits(100, maximum_packet=70_000))
    outbound.reply(TOPIC, b"c" * 60_000, (b"r" * 10_000,), outbound.acks.owe(1))
    outbound.reply(TOPIC, b"c" * 60_000, (b"r" * 10_000,), None)
    assert wire.sent == [("ack", 1)]
    assert (outbound.counters.total("replies_refused"), outbound.counters.total("replies_dropped")) == (1, 1)
