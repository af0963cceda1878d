"""What each inspector makes of bytes: of hostile ones a refusal, never a crash, a hang or a surprise."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.inspection import checkpoint, mindir, om
from registry.inspection.facts import InspectionError, Parameter
from tests.support.models.protobuf import message, number

READERS: tuple[Callable[[BytesIO, int, str], object], ...] = (
    mindir.read,
    checkpoint.read,
    checkpoint.read_safetensors,
    om.read,
)


def parameters(data: bytes) -> tuple[Parameter, ...]:
    return checkpoint.read(BytesIO(data), len(data), "m.ckpt")


def weight(tag: str, dims: tuple[int, ...], content: bytes, datatype: str = "Float32") -> bytes:
    inner = b"".join(number(1, dim) for dim in dims) + message(2, datatype) + message(3, content)
    return message(1, message(1, tag) + message(2, inner))


def stensors(header: object, data: bytes = b"") -> tuple[Parameter, ...]:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    whole = len(raw).to_bytes(8, "little") + raw + data
    return checkpoint.read_safetensors(BytesIO(whole), len(whole), "m.safetensors")


def om_version(head: bytes, size: int | None = None) -> int:
    return om.read(BytesIO(head), len(head) if size is None else size, "m.om")


def om_header(length: int, encrypted: int = 0) -> bytes:
    start = b"IMOD" + (256).to_bytes(4, "little") + (0x10000000).to_bytes(4, "little") + bytes(64)
    return (start + length.to_bytes(4, "little") + bytes([encrypted])).ljust(256, b"\0")


W = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
"""A tensor of a safetensors header."""


class TestCheckpoint:
    def test_a_parameter_in_slices_is_one(self) -> None:
        assert parameters(weight("w", (4,), bytes(8)) * 2) == (Parameter("w", "Float32", (4,), 16),)

    def test_a_number_has_no_shape(self) -> None:
        assert parameters(weight("step", (0,), bytes(4), "Int32"))[0].size == 4

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (weight("w", (4,), bytes(15)), "are 16: the file is damaged"),
            (weight("w", (4,), bytes(16), "Float12"), "does not load"),
            (weight("w", (-4,), bytes(16)), "impossible shape"),
            (weight("w", (1,) * 17, bytes(4)), "more than 16 dimensions"),
            (weight("w", (1,), bytes(4)) + weight("v", (1,), bytes(4)) + weight("w", (1,), bytes(4)), "twice"),
            (weight("w", (1,), bytes(4)) + number(2, 1), "has a field 2"),
            (message(1, message(1, "w")), "no name or no tensor"),
            (message(1, message(1, "w") + message(3, b"")), "hash table"),
            (b"", "no parameters"),
            (weight("w", (4,), bytes(16))[:-1], "cut short"),
            (b"\x80\x02cposix\nsystem\n", "not a"),
        ],
    )
    def test_what_is_no_sound_checkpoint_is_refused(self, data: bytes, reason: str) -> None:
        with pytest.raises(InspectionError, match=reason):
            parameters(data)

    def test_a_checkpoint_that_carries_a_crc_is_checked_against_it(self) -> None:
        data = weight("w", (1,), b"abcd")
        mark = b"crc_num" + zlib.crc32(data).to_bytes(10, "big")
        assert len(parameters(data + mark)) == 1
        with pytest.raises(InspectionError, match="its CRC is another"):
            parameters(data.replace(b"abcd", b"abcx") + mark)


class TestSafetensors:
    def test_parameters_come_in_the_order_of_their_bytes(self) -> None:
        header = {"b": {"dtype": "U8", "shape": [], "data_offsets": [8, 9]}, "a": W, "__metadata__": {"f": "ms"}}
        assert stensors(header, bytes(9)) == (Parameter("a", "FP32", (2,), 8), Parameter("b", "UINT8", (), 1))

    @pytest.mark.parametrize(
        ("header", "data", "reason"),
        [
            ({"w": W | {"data_offsets": [0, 9]}}, bytes(9), "has 9 bytes, but"),
            ({"w": W | {"data_offsets": [8, 0]}}, bytes(8), "has -8 bytes"),
            ({"w": W | {"data_offsets": [4, 12]}}, bytes(12), "leaves a hole"),
            ({"w": W, "v": W}, bytes(16), "overlaps another"),
            ({"w": W}, bytes(7), "cut short"),
            ({"w": W}, bytes(9), "belong to no tensor"),
            ({"w": W | {"dtype": "F8_E4M3"}}, bytes(8), "the type 'F8_E4M3', which is not one of ours"),
            ({"w": W | {"shape": [True, 2]}}, bytes(8), "impossible shape"),
            ({"w": W | {"shape": [-2, -1]}}, bytes(8), "impossible shape"),
            ({"w": W | {"shape": [1] * 17}}, bytes(8), "impossible shape"),
            ({"w": W | {"data_offsets": [0]}}, bytes(8), "impossible data_offsets"),
            ({"w": 1}, b"", "not described"),
            ({}, b"", "has 0 tensors"),
            (b'{"\\ud800": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}', bytes(1), "surrogates not allowed"),
            ([], b"", "no JSON object"),
            (b'{"w": 1, "w": 2}', b"", "stands twice"),
            (b"{" * 100_000, b"", "its header"),
            (b'{"a":' * 100_000, b"", "its header"),
            (b"\xff{}", b"", "its header"),
        ],
    )
    def test_what_is_no_sound_file_is_refused(self, header: object, data: bytes, reason: str) -> None:
        with pytest.raises(InspectionError, match=reason):
            stensors(header, data)

    def test_weights_may_have_more_dimensions_and_longer_headers_than_requests(self) -> None:
        named = {"x" * (5 << 20): {"dtype": "U8", "shape": [1] * 16, "data_offsets": [0, 1]}}
        assert [parameter.shape for parameter in stensors(named, bytes(1))] == [(1,) * 16]

    def test_a_header_beyond_the_file_or_the_limit_is_refused_unread(self) -> None:
        for length, reason in ((1 << 63, "at most"), (1000, "ends inside its header")):
            data = length.to_bytes(8, "little") + b"{"
            with pytest.raises(InspectionError, match=reason):
                checkpoint.read_safetensors(BytesIO(data), len(data), "m")


class TestOm:
    def test_the_version_is_read(self) -> None:
        assert om_version(om_header(length=4) + bytes(4)) == 0x10000000

    def test_a_length_that_newer_cann_says_elsewhere_is_not_missed(self) -> None:
        assert om_version(om_header(length=0) + bytes(100)) == 0x10000000

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "not an OM file"),
            (b"\x08\x09\x12\x07pytorch", "begins with 08 09"),
            (om_header(4)[:100], "inside its header"),
            (om_header(100) + bytes(99), "should have 356 bytes and has 355"),
            (om_header(0, encrypted=1), "encrypted"),
            (om_header(0, encrypted=9), "damaged"),
        ],
    )
    def test_what_is_no_whole_om_file_is_refused(self, data: bytes, reason: str) -> None:
        with pytest.raises(InspectionError, match=reason):
            om_version(data)

    def test_atc_tells_chip_and_version_among_other_attributes(self) -> None:
        told = [
            {"key": "opp_version", "value": {"s": "8.0"}},
            {"key": "atc_version", "value": {"s": "8.0.RC1"}},
            {"key": "soc_version", "value": {"s": "Ascend310P3"}},
        ]
        assert om.attributes({"attr": told}) == {
            "atc_version": "8.0.RC1",
            "soc_version": "Ascend310P3",
            "opp_version": "8.0",
        }

    @pytest.mark.parametrize("document", [None, [], {}, {"attr": 3}, {"attr": [1, {"key": "soc_version"}]}])
    def test_other_json_tells_nothing(self, document: object) -> None:
        assert om.attributes(document) == {}

    def test_a_chip_that_is_no_name_is_not_believed(self) -> None:
        for text in ("a b", "", "x" * 65, "$(x)", 3):
            assert om.attributes({"attr": [{"key": "soc_version", "value": {"s": text}}]}) == {}


PIECES = st.recursive(
    st.one_of(
        st.binary(max_size=40),
        st.builds(number, st.integers(1, 20), st.integers(-(1 << 63), (1 << 64) - 1)),
        st.just(b"\x12\x09MindSpore"),
    ),
    lambda inner: st.one_of(st.builds(message, st.integers(1, 20), inner), st.lists(inner, max_size=4).map(b"".join)),
    max_leaves=12,
)


@given(st.one_of(st.binary(max_size=400), PIECES, PIECES.map(lambda raw: b"\x12\x09MindSpore" + message(7, raw))))
def test_any_bytes_end_in_facts_or_in_a_refusal(data: bytes) -> None:
    for read in READERS:
        with suppress(InspectionError):
            read(BytesIO(data), len(data), "fuzz")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_header_ends_in_facts_or_in_a_refusal(header: object) -> None:
    with suppress(InspectionError):
        stensors(header, bytes(8))
