"""Whatever comes, the codec answers with a plan or a RequestError that says expected and got; nothing else."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.dataplane.oip.request_reader import MAX_BYTES_ELEMENTS
from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import MAX_HEADER_BYTES, MAX_JSON_BYTES, MAX_TENSORS
from registry.inference.errors import MAX_MESSAGE, RequestError
from registry.inference.request import find_address
from tests.support.clients.oip import Input, encode_request
from tests.unit.agent.dataplane.oip_models import make_codec, spec

C = InferenceCode
CODEC = make_codec([spec("a", "FP32", -1, 2), spec("b", "INT8", -1)], [spec("y", "FP32", -1, 2)], max_payload=1 << 20)
STRINGS = make_codec([spec("s", "BYTES", -1)], [spec("t", "BYTES", -1)])
FLAGS = make_codec([spec("f", "BOOL", -1)], [spec("g", "BOOL", -1)])
A = {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}
B = {"name": "b", "shape": [1], "datatype": "INT8", "data": [1]}


def refuse(codec: Any, payload: bytes, header_length: int | None = None, content_type: str = "") -> RequestError:
    with pytest.raises(RequestError) as refused:
        codec.decode(payload, content_type, header_length)
    assert len(refused.value.message) <= MAX_MESSAGE
    return refused.value


def request(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


@pytest.mark.parametrize(
    ("payload", "code", "says"),
    [
        (b"", C.BAD_PAYLOAD, "Open Inference Protocol"),
        (b"hello", C.BAD_PAYLOAD, "malformed"),
        (b"[]", C.BAD_PAYLOAD, "object"),
        (b"{}", C.BAD_PAYLOAD, "inputs"),
        (b'{"inputs":' + b"[" * 100_000, C.BAD_PAYLOAD, "Open Inference"),
        (b'{"x":' + b"[" * 100_000, C.BAD_PAYLOAD, "Open Inference"),
        (b'{"inputs":[],"id":"\xff"}', C.BAD_PAYLOAD, "Open Inference"),
        (request(*[A] * (MAX_TENSORS + 1)), C.BAD_PAYLOAD, str(MAX_TENSORS)),
        (request(A, B, id=7), C.BAD_PAYLOAD, "id"),
        (request(A, B, id="x" * 257), C.BAD_PAYLOAD, "256"),
        (request(A, B, A), C.BAD_PAYLOAD, "twice"),
        (request(A), C.MISSING_INPUT, "'b'"),
        (request(A, B, {**A, "name": "n" * 999}), C.UNKNOWN_INPUT, "the model has 'a', 'b'"),
        (request(A, B, outputs=[{"name": "z"}]), C.UNKNOWN_OUTPUT, "the model has 'y'"),
        (request(A, B, outputs=[{"name": "y"}, {"name": "y"}]), C.BAD_PAYLOAD, "twice"),
        (request(A, B, model_name="other"), C.UNKNOWN_MODEL, "'other'"),
        (request(A, B, model_version="9"), C.UNKNOWN_VERSION, "'3'"),
        (request({**A, "datatype": "FP64"}, B), C.WRONG_DATATYPE, "expected datatype FP32, got 'FP64'"),
        (request({**A, "shape": [1, 3]}, B), C.WRONG_SHAPE, "expected shape [-1, 2] (-1: any size), got [1, 3]"),
        (request({**A, "shape": [2]}, B), C.WRONG_SHAPE, "got [2]"),
        (request({**A, "shape": [-1, 2]}, B), C.WRONG_SHAPE, "got [-1, 2]"),
        (request({**A, "shape": [1] * 5000}, B), C.WRONG_SHAPE, "got [1, 1"),
        (request({**A, "shape": [1 << 60, 2]}, B), C.TOO_LARGE, "elements"),
        (request({**A, "shape": [1 << 20, 2]}, B), C.TOO_LARGE, "over the limit"),
        (request({**A, "shape": [10**30, 2]}, B), C.TOO_LARGE, "elements"),
        (request({**A, "data": [1.0]}, B), C.SIZE_MISMATCH, "expected 2 elements in data, got 1"),
        (request({**A, "data": [1.0] * 3}, B), C.SIZE_MISMATCH, "got 3"),
        (request({**A, "data": [[1.0], [2.0]]}, B), C.SIZE_MISMATCH, "got shape [2, 1]"),
        (request({**A, "data": [[[1.0, 2.0]]]}, B), C.WRONG_SHAPE, "nested"),
        (request({**A, "data": "ab,"}, B), C.WRONG_SHAPE, "nested"),
        (request({**A, "data": [1.0, "2"]}, B), C.WRONG_DATATYPE, "got `str`"),
        (request({**A, "data": [1.0, None]}, B), C.WRONG_DATATYPE, "got `null`"),
        (request(A, {**B, "data": [float("nan")]}), C.WRONG_DATATYPE, "INT8 has no NaN"),
        (request(A, B).replace(b"1.0", b"1.0Inf"), C.BAD_PAYLOAD, "malformed"),
        (request(A, B).replace(b"1.0", b"+Infinity"), C.BAD_PAYLOAD, "malformed"),
        (request(A, B).replace(b"1.0", b"nan"), C.BAD_PAYLOAD, "malformed"),
        (request(A, {**B, "shape": [float("inf")]}), C.BAD_PAYLOAD, "got `str`"),
        (request({**A, "data": [float("nan"), "NaN"]}, B), C.WRONG_DATATYPE, "expected numbers, got 'NaN'"),
        (request({**A, "data": [float("inf"), 1e300]}, B), C.WRONG_DATATYPE, "1e+300 is too large for FP32"),
        (request(A, {**B, "data": [-129]}), C.WRONG_DATATYPE, ">= -128"),
        (request({**A, "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8}}, B),
         C.UNSUPPORTED_PARAMETER, "input 'a': the parameter shared_memory_region"),
        (request(A, B, outputs=[{"name": "y", "parameters": {"shared_memory_byte_size": 8}}]),
         C.UNSUPPORTED_PARAMETER, "output 'y': the parameter shared_memory_byte_size"),
        (request(A, B, outputs=[{"name": "y", "parameters": {"classification": 3}}]),
         C.UNSUPPORTED_PARAMETER, "`label`"),
        (request({**A, "data": [1.0, 1e300]}, B), C.WRONG_DATATYPE, "too large for FP32"),
        (request(A, {**B, "data": [300]}), C.WRONG_DATATYPE, "INT8"),
        (request(A, {**B, "data": [10**40]}), C.WRONG_DATATYPE, "INT8"),
        (request(A, {**B, "data": [1.5]}), C.WRONG_DATATYPE, "INT8"),
        (request(A, {**B, "shape": [0], "data": [{}]}), C.SIZE_MISMATCH, "expected 0"),
        (request(A, {k: v for k, v in B.items() if k != "data"}), C.BAD_PAYLOAD, "either data or"),
        (request(A, {**B, "parameters": {"binary_data_size": 1}}), C.BAD_PAYLOAD, "either data or"),
        (b'{"inputs":[' + b" " * MAX_JSON_BYTES + b"]}", C.TOO_LARGE, "at most"),
        (b"OIPB", C.BAD_PAYLOAD, "needs 8 bytes"),
        (b"OIPB" + struct.pack("<I", 0xFFFFFFFF) + b"{}", C.BAD_PAYLOAD, "header length 4294967295"),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_with_what_was_expected(payload: Any, code: Any, says: Any) -> None:
    error = refuse(CODEC, payload)
    assert error.code == code
    assert says in error.message


@pytest.mark.parametrize("length", [-1, 0, 5, MAX_HEADER_BYTES + 1, 1 << 70])
def test_a_header_length_that_cannot_be_is_refused(length: Any) -> None:
    assert refuse(CODEC, b"{}{}", length).code == C.BAD_PAYLOAD


def test_a_header_over_its_limit_is_refused_though_it_is_there() -> None:
    payload = request(A, B) + b" " * MAX_HEADER_BYTES
    assert refuse(CODEC, payload, len(payload)).code == C.BAD_PAYLOAD


@pytest.mark.parametrize("size", [-1, 0, 7, 9, 1 << 62, 10**40])
def test_a_binary_size_that_is_not_the_shapes_is_refused(size: Any) -> None:
    header = request({"name": "a", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": size}}, B)
    error = refuse(CODEC, header + b"\0" * 8, len(header))
    assert error.code == C.SIZE_MISMATCH
    assert "takes 8 bytes" in error.message


def test_a_body_that_is_too_short_or_too_long_is_refused() -> None:
    header = request({"name": "a", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}, B)
    for body in (b"", b"\0" * 7, b"\0" * 9):
        error = refuse(CODEC, header + body, len(header))
        assert error.code == C.SIZE_MISMATCH
        assert f"expected 8 bytes of binary tensors, got {len(body)}" in error.message


def test_binary_tensors_in_a_payload_without_a_header_length_are_refused() -> None:
    header = request({"name": "a", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}, B)
    assert "OIPB" in refuse(CODEC, header).message


@pytest.mark.parametrize(
    "body",
    [b"\x05\0\0\0abc", b"\xff\xff\xff\xff", b"\x01\0\0\0a\x01\0\0\0b\x01\0\0\0c", b"\x01\0\0\0a", b"\x01\0", b""],
)
def test_bytes_elements_must_end_where_the_tensor_ends(body: Any) -> None:
    size = {"binary_data_size": len(body)}
    header = request({"name": "s", "shape": [2], "datatype": "BYTES", "parameters": size})
    assert refuse(STRINGS, header + body, len(header)).code == C.SIZE_MISMATCH


def test_more_bytes_elements_than_can_be_walked_are_refused() -> None:
    many = MAX_BYTES_ELEMENTS + 1
    header = request({"name": "s", "shape": [many], "datatype": "BYTES", "parameters": {"binary_data_size": 4 * many}})
    assert refuse(STRINGS, header + bytes(4 * many), len(header)).code == C.TOO_LARGE


@pytest.mark.parametrize("data", [["\ud800"], [1], [["a"]], [None]])
def test_bytes_in_json_must_be_strings(data: Any) -> None:
    payload = request({"name": "s", "shape": [1], "datatype": "BYTES", "data": data})
    assert refuse(STRINGS, payload).code in (C.WRONG_DATATYPE, C.WRONG_SHAPE, C.BAD_PAYLOAD)


def test_a_bool_is_0_or_1() -> None:
    codec = FLAGS
    request_ = encode_request([Input("f", "BOOL", np.array([True, False]))])
    codec.decode(request_.payload, "", request_.header_length)
    assert refuse(codec, request_.payload[:-1] + b"\x02", request_.header_length).code == C.WRONG_DATATYPE
    assert refuse(codec, request({"name": "f", "shape": [1], "datatype": "BOOL", "data": [1]})).code == C.WRONG_DATATYPE


def test_a_refusal_says_where_to_answer_when_the_header_could_be_read() -> None:
    error = refuse(CODEC, request(A, id="r", parameters={"response_topic": "me", "correlation_id": "c"}))
    assert (error.id, error.response_topic, error.correlation_id) == ("r", "me", "c")


def test_other_content_and_pictures_to_a_model_that_takes_none_are_refused() -> None:
    assert refuse(CODEC, request(A, B), content_type="text/xml").code == C.UNSUPPORTED_CONTENT_TYPE
    assert refuse(CODEC, b"x", content_type="image/gif").code == C.UNSUPPORTED_CONTENT_TYPE
    assert refuse(CODEC, b"x", content_type="image/jpeg").code == C.NO_IMAGE_INPUT
    assert refuse(CODEC, b"\xff\xd8\xff\xe0").code == C.NO_IMAGE_INPUT
    assert refuse(CODEC, b"\0" * ((1 << 20) + 1)).code == C.TOO_LARGE


GOOD = [
    encode_request([Input("a", "FP32", np.ones((2, 2)), binary), Input("b", "INT8", np.ones(2))], request_id="i")
    for binary in (True, False)
]
PAYLOADS = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([item.payload for item in GOOD]),
    st.builds(lambda good, at, byte: good[:at] + byte + good[at + 1 :],
              st.sampled_from([item.payload for item in GOOD]), st.integers(0, 300), st.binary(max_size=3)),
)  # fmt: skip
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(payload=PAYLOADS, header_length=st.none() | st.integers(-5, 400), magic=st.booleans())
@example(
    payload=b'{"inputs":[{"name":"a","shape":[0,2],"datatype":"FP32","data":[]}]}', header_length=None, magic=False
)
def test_bytes_that_mean_nothing_never_raise_anything_else(payload: Any, header_length: Any, magic: Any) -> None:
    if magic:
        payload = b"OIPB" + struct.pack("<I", max(header_length or 0, 0)) + payload
        header_length = None
    for codec in (CODEC, STRINGS):
        try:
            codec.decode(payload, "", header_length)
        except RequestError as error:
            assert error.code in set(InferenceCode)  # noqa: PT017 - either outcome is right


@given(
    key=st.sampled_from(["name", "shape", "datatype", "data", "parameters"]),
    value=JSON_VALUES,
    shape=st.lists(st.integers(-2, 3), max_size=3),
)
def test_json_of_another_structure_never_raises_anything_else(key: Any, value: Any, shape: Any) -> None:
    for name, codec, datatype in (("a", CODEC, "FP32"), ("s", STRINGS, "BYTES"), ("f", FLAGS, "BOOL")):
        item = {"name": name, "shape": shape, "datatype": datatype, "data": value, key: value}
        try:
            codec.decode(request(item))
        except RequestError as error:
            assert error.code in set(InferenceCode)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize("data", ["[-1]", "[18446744073709551616]", "[1.5]", "[NaN]"])
def test_json_never_wraps_an_unsigned_number(data: str) -> None:
    codec = make_codec([spec("x", "UINT64", 1)], [spec("y", "UINT64", 1)])
    payload = f'{{"inputs":[{{"name":"x","shape":[1],"datatype":"UINT64","data":{data}}}]}}'
    assert refuse(codec, payload.encode()).code == C.WRONG_DATATYPE


def test_a_refused_request_with_nan_is_answered_where_it_asked() -> None:
    payload = (
        b'\xef\xbb\xbf{"id":"r7","parameters":{"response_topic":"reply/7"},'
        b'"inputs":[{"name":"a","shape":[1,2],"datatype":"FP32","data":[NaN,1]}, 5]}'
    )
    error = refuse(CODEC, payload)
    find_address(payload, error)
    assert (error.id, error.response_topic) == ("r7", "reply/7")
