"""What the few packets that the data path reads and writes must look like, whatever comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.inference.packets import (
    BAD_HEADER_LENGTH,
    MAX_REMAINING,
    NO_HEADER_LENGTH,
    encode_puback,
    encode_publish,
    head_end,
    parse_header_length,
    parse_publish,
    remaining_length,
    reply_properties,
    text,
    variable,
)

EXPIRY = b"\x02\x00\x00\x00\x3c"


def properties(reply: bytes = b"r/1", correlation: bytes = b"c1", *more: bytes) -> bytes:
    return b"\x08" + text(reply) + b"\x09" + text(correlation) + b"".join(more)


def body_of(packet: bytes) -> int:
    found = remaining_length(packet, 1)
    assert found is not None
    return found[1]


@given(st.integers(0, MAX_REMAINING))
def test_a_variable_integer_survives(value: int) -> None:
    raw = variable(value)
    assert remaining_length(raw, 0) == (value, len(raw))


def test_a_variable_integer_of_five_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="four bytes"):
        remaining_length(b"\xff\xff\xff\xff\x01", 0)


def test_a_variable_integer_that_has_not_all_come_is_unknown() -> None:
    assert remaining_length(b"\xff\xff", 0) is None


@pytest.mark.parametrize("mid", [0, 7])
@pytest.mark.parametrize("v5", [True, False])
def test_what_is_encoded_is_parsed(mid: int, v5: bool) -> None:
    packet = encode_publish(text(b"a/b"), properties() if v5 else None, (b"pay", memoryview(b"load")), mid)
    publish = parse_publish(packet, packet[0], body_of(packet), len(packet), v5)
    assert publish is not None
    assert (publish.topic, publish.qos, publish.mid, publish.retain) == (b"a/b", 1 if mid else 0, mid, False)
    assert packet[publish.payload :] == b"payload"
    assert publish.reply_to == (text(b"r/1") if v5 else b"")
    assert publish.correlation == (b"\x09" + text(b"c1") if v5 else b"")


def test_every_property_that_a_client_may_send_is_understood() -> None:
    more = (
        b"\x01\x01",
        EXPIRY,
        b"\x03" + text(b"image/png"),
        b"\x26" + text(b"traceparent") + text(b"00-abc" * 40),
        b"\x26" + text(b"Inference-Header-Content-Length") + text(b"123"),
    )
    packet = encode_publish(text(b"t"), properties(b"r", b"c", *more), (b"x",))
    publish = parse_publish(packet, packet[0], body_of(packet), len(packet), v5=True)
    assert publish is not None
    assert (publish.expiry, publish.content_type, publish.header_length) == (60, b"image/png", 123)
    assert publish.traceparent == b"00-abc" * 40
    assert packet[publish.payload :] == b"x"


@pytest.mark.parametrize(
    "odd",
    [
        b"\x23\x00\x01",
        b"\x0b\x05",
        b"\x7f\x00\x00",
        b"\x08" + text(b"again"),
        b"\x09\xff\xff",
        b"\x26\x00\x01a\xff\xff",
    ],
    ids=["topic alias", "subscription id", "unknown", "response topic twice", "length lies", "user value lies"],
)
def test_the_unusual_and_the_malformed_are_left_to_paho(odd: bytes) -> None:
    packet = encode_publish(text(b"t"), properties() + odd, (b"x" * 99,))
    assert parse_publish(packet, packet[0], body_of(packet), len(packet), v5=True) is None


def test_properties_that_reach_past_their_packet_are_left_to_paho() -> None:
    packet = bytearray(encode_publish(text(b"t"), properties(), (b"",)))
    packet[5] = 120
    data = bytes(packet) + b"\x00" * 200
    assert parse_publish(data, data[0], 2, len(packet), v5=True) is None


def test_qos_without_a_packet_identifier_is_left_to_paho() -> None:
    assert parse_publish(b"\x32\x06\x00\x01t\x00\x00\x00", 0x32, 2, 8, v5=True) is None
    assert parse_publish(b"\x36\x06\x00\x01t\x00\x01\x00", 0x36, 2, 8, v5=True) is None


@given(st.binary(max_size=80), st.sampled_from([0x30, 0x31, 0x32, 0x33, 0x36]), st.booleans())
def test_no_bytes_crash_the_parser_or_make_it_read_outside(data: bytes, flags: int, v5: bool) -> None:
    publish = parse_publish(data, flags, 0, len(data), v5)
    if publish is not None:
        assert publish.payload <= len(data)
        parts = len(publish.topic) + len(publish.reply_to) + len(publish.correlation) + len(publish.content_type)
        assert parts <= publish.payload
        assert head_end(data + b"\0", flags, 0, v5) == publish.payload


@given(st.binary(max_size=40), st.integers(0, 40))
def test_the_end_of_a_head_is_never_guessed(data: bytes, cut: int) -> None:
    whole, part = head_end(data, 0x32, 0, True), head_end(data[:cut], 0x32, 0, True)
    assert part in (None, whole)


@pytest.mark.parametrize(
    ("value", "length"),
    [(b"0", 0), (b"321", 321), (b"", BAD_HEADER_LENGTH), (b"-1", BAD_HEADER_LENGTH), (b" 1", BAD_HEADER_LENGTH),
     (b"1_0", BAD_HEADER_LENGTH), (b"9" * 10, BAD_HEADER_LENGTH), (b"0x1", BAD_HEADER_LENGTH)],
)  # fmt: skip
def test_a_header_length_is_a_plain_decimal_number(value: bytes, length: int) -> None:
    assert parse_header_length(value) == length
    assert length != NO_HEADER_LENGTH


def test_reply_properties_say_how_to_read_the_payload() -> None:
    packet = encode_publish(text(b"t"), reply_properties("application/octet-stream", 300), (b"",))
    publish = parse_publish(packet, packet[0], body_of(packet), len(packet), v5=True)
    assert publish is not None
    assert (publish.content_type, publish.header_length) == (b"application/octet-stream", 300)


def test_a_puback_is_four_bytes() -> None:
    assert encode_puback(0x1234) == b"\x40\x02\x12\x34"


def test_a_packet_that_mqtt_cannot_express_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than MQTT"):
        variable(MAX_REMAINING + 1)
