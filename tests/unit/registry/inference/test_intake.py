"""The stream of a broker comes in any pieces; what is made of it does not depend on them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.inference.mqtt.intake import MAX_FOREIGN_BYTES, PROTOCOL_FAULT, WHOLE_BYTES, Body, Intake
from registry.inference.packets import Buffer, Publish, encode_puback, encode_publish, text, variable

LONG = WHOLE_BYTES + 5000
PINGRESP = b"\xd0\x00"


class Record:
    """Writes down everything it is given. Takes long payloads for topic `infer/take`, discards them for others."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []
        self._buffers: dict[int, tuple[Publish, bytearray]] = {}

    def is_request_topic(self, topic: bytes) -> bool:
        return topic.startswith(b"infer/")

    def request(self, publish: Publish, data: bytes, end: int) -> None:
        if publish.topic == b"infer/no":
            self.seen.append(("refused", publish.topic, end - publish.payload))
        else:
            self.seen.append(("request", publish.topic, publish.mid, data[publish.payload : end]))

    def announce(self, publish: Publish, data: bytes, size: int) -> Body | int | None:
        if len(data) - publish.payload < 100:
            return 100
        if publish.topic != b"infer/take":
            self.seen.append(("refused", publish.topic, size))
            return None
        buffer = bytearray(size)
        view = memoryview(buffer)
        body = Body([view[:10], view[10:10], view[10:4000], view[4000:]])
        self._buffers[id(body)] = publish, buffer
        return body

    def arrived(self, body: Body) -> None:
        publish, buffer = self._buffers.pop(id(body))
        self.seen.append(("request", publish.topic, publish.mid, bytes(buffer)))

    def abort(self) -> None:
        raise AssertionError("the stream alone ends no connection")

    def oversized(self, publish: Publish) -> None:
        self.seen.append(("oversized", publish.topic))

    def puback(self, mid: int, reason: int) -> bool:
        if mid >= 100:
            self.seen.append(("puback", mid, reason))
        return mid >= 100

    def foreign(self, packet: Buffer) -> bool:
        self.seen.append(("foreign", bytes(packet)))
        return packet != PROTOCOL_FAULT


def publish(topic: bytes, payload: bytes, mid: int = 0) -> bytes:
    return encode_publish(text(topic), b"\x08" + text(b"r"), (payload,), mid)


LONG_PAYLOAD = bytes(range(256)) * (LONG // 256 + 1)
PACKETS = {
    "small": (publish(b"infer/m", b"p" * 300, 9), ("request", b"infer/m", 9, b"p" * 300)),
    "empty": (publish(b"infer/m", b""), ("request", b"infer/m", 0, b"")),
    "long": (publish(b"infer/take", LONG_PAYLOAD, 11), ("request", b"infer/take", 11, LONG_PAYLOAD)),
    "refused": (publish(b"infer/no", LONG_PAYLOAD, 12), ("refused", b"infer/no", len(LONG_PAYLOAD))),
    "ours": (encode_puback(500), ("puback", 500, 0)),
    "reason": (b"\x40\x03\x01\x00\x97", ("puback", 256, 0x97)),
    "paho's": (encode_puback(3), ("foreign", encode_puback(3))),
    "ping": (PINGRESP, ("foreign", PINGRESP)),
    "control": (publish(b"other", b"doc" * 99, 5), ("foreign", publish(b"other", b"doc" * 99, 5))),
    "long control": (publish(b"other", LONG_PAYLOAD), ("foreign", publish(b"other", LONG_PAYLOAD))),
}


def fed(pieces: list[bytes]) -> tuple[Record, Intake]:
    record = Record()
    intake = Intake(record, record, v5=True)
    for piece in pieces:
        intake.feed(piece)
    return record, intake


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(sorted(PACKETS)), max_size=6), st.lists(st.integers(1, 90_000), max_size=12))
def test_any_split_of_the_stream_gives_the_same(names: list[str], cuts: list[int]) -> None:
    stream = b"".join(PACKETS[name][0] for name in names)
    pieces = []
    for cut in cuts:
        pieces.append(stream[:cut])
        stream = stream[cut:]
    record, intake = fed([*pieces, stream])
    assert record.seen == [PACKETS[name][1] for name in names]
    assert not intake.closed
    assert intake.body is None
    assert intake.skip == 0


@pytest.mark.parametrize("name", ["small", "empty", "ours", "reason", "control"])
def test_byte_by_byte(name: str) -> None:
    raw, expected = PACKETS[name]
    record, _ = fed([bytes((byte,)) for byte in raw])
    assert record.seen == [expected]


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_no_bytes_crash_it(pieces: list[bytes]) -> None:
    fed(pieces)


def test_what_is_not_mqtt_is_paho_s_to_end() -> None:
    record, intake = fed([b"\x30\xff\xff\xff\xff\xff", b"more"])
    assert record.seen == [("foreign", PROTOCOL_FAULT)]
    assert intake.closed


def test_a_control_message_that_is_too_long_is_discarded_as_it_comes() -> None:
    size = MAX_FOREIGN_BYTES + 1
    head = publish(b"other", b"")[2:]
    first = b"\x30" + variable(len(head) + size) + head
    record, intake = fed([first])
    assert record.seen == [("oversized", b"other")]
    assert intake.skip == size
    intake.skipped(size - 2)
    intake.feed(b"xx" + PINGRESP)
    assert record.seen[1:] == [("foreign", PINGRESP)]


def test_a_request_that_says_it_is_the_longest_that_can_be_is_refused_on_its_head() -> None:
    head = publish(b"infer/no", b"")[2:]
    record, intake = fed([b"\x30" + variable(268_435_455) + head + b"x" * 200])
    assert record.seen == [("refused", b"infer/no", 268_435_455 - len(head))]
    assert intake.skip == 268_435_455 - len(head) - 200


@pytest.mark.parametrize("first", [b"\x30", b"\x32"])
def test_a_head_that_never_ends_is_neither_waited_for_nor_answered_by_ending_the_connection(first: bytes) -> None:
    mid = b"\x00\x07" if first == b"\x32" else b""
    head = first + variable(200_000_000) + b"\x00\x01t" + mid + variable(100_000_000)
    record, intake = fed([head, b"\x26" * 100_000, b"\x26" * 70_000])
    assert record.seen == [("oversized", b"t")]
    assert intake.skip == 200_000_000 - (len(head) - 5) - 170_000
    intake.skipped(intake.skip)
    intake.feed(PINGRESP)
    assert record.seen[1:] == [("foreign", PINGRESP)]


def test_a_head_that_never_ends_and_has_no_packet_identifier_is_paho_s_to_end() -> None:
    head = b"\x32" + variable(200_000_000) + b"\x00\x01t\x00\x00" + variable(100_000_000)
    record, intake = fed([head, b"\x26" * 170_000])
    assert record.seen == [("foreign", PROTOCOL_FAULT)]
    assert intake.closed
