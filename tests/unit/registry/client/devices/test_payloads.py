"""Requests to payloads and answers from payloads, without a broker; and what a client's constructor refuses."""

from __future__ import annotations

import inspect
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.client.devices.answer import AnswerReader, Expected
from registry.client.devices.arrays import to_wire
from registry.client.devices.encoding import Options, ReplyAddress, RequestEncoder, picture_type
from registry.client.devices.errors import BadReplyError, BadRequestError, DeviceError
from registry.client.devices.metadata import Descriptions, ModelDescription, read_model, read_server
from registry.client.devices.settings import ClientOptions, make_settings, parse_broker
from registry.contracts.tensors import BINARY_MAGIC
from registry.inference.request import decode_request
from tests.support.paths import ROOT

X = np.array([[1, 2]], np.float32)
ASKED = Expected("a", "m", "d")
GOLDEN = ROOT / "tests" / "contracts" / "golden" / "v1"


def answer(outputs: list[dict[str, Any]], body: bytes = b"", **more: Any) -> tuple[bytes, int]:
    header = {"model_name": "m", "model_version": "1.0.0", "id": "a", "parameters": {"device": "d"}, **more}
    raw = json.dumps({**header, "outputs": outputs}, separators=(",", ":")).encode()
    return raw + body, len(raw)


Y = {"name": "y", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}


@pytest.mark.parametrize("version", ["", "1.0.0"])
@pytest.mark.parametrize("outputs", [None, ("y",)])
def test_a_request_is_read_by_the_decoder_of_agents(version: str, outputs: tuple[str, ...] | None) -> None:
    encoder = RequestEncoder(b"r/t")
    for request_id in ("a-1", 'with "quotes" and ü'):
        made = encoder.tensors({"x": to_wire("x", X)}, Options(outputs, version), request_id)
        request, _ = decode_request(made.pieces[0])
        assert (request.id, request.model_version) == (request_id, version or None)
        assert request.inputs is not None
        assert [(each.name, each.datatype, each.shape) for each in request.inputs] == [("x", "FP32", (1, 2))]
        assert (request.outputs is None) == (outputs is None)
        assert made.pieces[1] == X.tobytes()


def test_without_properties_the_payload_says_where_the_answer_goes() -> None:
    made = RequestEncoder(b"r/t").tensors({"x": to_wire("x", X)}, Options(), "a", ReplyAddress("r/t", "7"))
    header = made.pieces[0]
    assert header.startswith(BINARY_MAGIC)
    request, _ = decode_request(header[8:])
    assert request.parameters is not None
    assert (request.parameters.response_topic, request.parameters.correlation_id) == ("r/t", "7")
    assert request.parameters.binary_data_output


def test_answers_with_the_same_header_but_for_the_id_are_read_once_and_each_has_its_own_values() -> None:
    reader = AnswerReader()
    for number in range(3):
        payload, length = answer([Y], (X + number).tobytes(), id=f"id-{number}")
        read = reader.read(payload, length, ASKED._replace(request_id=f"id-{number}"))
        np.testing.assert_array_equal(read["y"], X + number)
        assert read.request_id == f"id-{number}"
    assert len(reader._kept) == 1


def test_the_arrays_of_an_answer_cannot_be_written_to() -> None:
    read = AnswerReader().read(*answer([Y], X.tobytes()), ASKED)
    with pytest.raises(ValueError, match="read-only"):
        read["y"][0, 0] = 1


def test_labels_and_scores_of_a_classification() -> None:
    label = {"name": "label", "shape": [2, 2], "datatype": "BYTES", "data": ["7", "9", "1", "2"]}
    score = {"name": "score", "shape": [2, 2], "datatype": "FP32", "data": [0.9, 0.1, 0.8, 0.2]}
    read = AnswerReader().read(answer([label, score])[0], -1, ASKED)
    assert (read.label, read.labels) == ("7", [["7", "9"], ["1", "2"]])
    assert read.score == pytest.approx(0.9)
    with pytest.raises(LookupError):
        _ = AnswerReader().read(*answer([Y], X.tobytes()), ASKED).label


def test_an_error_result_is_raised_with_its_code_and_device() -> None:
    payload = json.dumps({"error": "full", "code": "overloaded", "parameters": {"device": "d"}}).encode()
    with pytest.raises(DeviceError) as raised:
        AnswerReader().read(payload, -1, ASKED)
    assert (raised.value.code, raised.value.message, raised.value.device) == ("overloaded", "full", "d")


@pytest.mark.parametrize(
    "said",
    [
        {"model_name": "another"}, {"model_name": None}, {"parameters": {"device": "another"}}, {"parameters": {}},
        {"id": "another"}, {"id": None}, {"id": 1}, {"error": "x", "id": "another"},
        {"error": "x", "parameters": {"device": "another"}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("first_another", [False, True])
def test_an_answer_of_another_model_device_or_request_is_refused(said: dict[str, Any], first_another: bool) -> None:
    reader = AnswerReader()
    payload = answer([Y], X.tobytes(), **said)
    if first_another and "error" not in said and isinstance(said.get("id", "a"), str):
        others = answer([Y], X.tobytes(), **said)  # its header is kept
        name, device = str(said.get("model_name", "m")), said.get("parameters", {"device": "d"}).get("device", "")
        reader.read(*others, Expected(said.get("id", "a"), name, device))
    with pytest.raises(BadReplyError):
        reader.read(*payload, ASKED)


def test_of_a_pool_any_device_answers_and_a_picture_without_an_id_is_answered_without_one() -> None:
    assert AnswerReader().read(*answer([Y], X.tobytes()), ASKED._replace(device="")).device == "d"
    assert AnswerReader().read(*answer([Y], X.tobytes(), id=None), ASKED._replace(has_id=False)).request_id == "a"


def test_a_refusal_of_what_the_device_could_not_read_has_no_id() -> None:
    with pytest.raises(BadRequestError):
        AnswerReader().read(b'{"error":"no JSON","code":"bad_payload"}', -1, ASKED)


def test_metadata_of_another_model_device_or_request_are_refused() -> None:
    asked, payload = Expected("r1", "lenet", "edge-1"), (GOLDEN / "metadata-model.json").read_bytes()
    for other in (asked._replace(model="iris"), asked._replace(device="edge-2"), asked._replace(request_id="r2")):
        with pytest.raises(BadReplyError):
            read_model(payload, -1, other)
    assert read_model(payload, -1, asked._replace(device="")).device == "edge-1"


GOOD, LENGTH = answer([Y], X.tobytes())


@pytest.mark.parametrize(
    ("payload", "length"),
    [
        (b"", -1), (b"[]", -1), (b"null", -1), (b"{}", -1), (b"\xff", -1), (b"[" * 100_000, -1),
        (BINARY_MAGIC, -1), (BINARY_MAGIC + b"\xff\xff\xff\xff", -1), (GOOD, 0), (GOOD, LENGTH + 100),
        (GOOD[:-1], LENGTH), (GOOD + b"x", LENGTH), answer([Y], X.tobytes(), id="another"),
        answer([{**Y, "shape": [1, 3]}], X.tobytes()), answer([Y, Y], X.tobytes() * 2),
        answer([{**Y, "shape": [-1]}], X.tobytes()),
        answer([{**Y, "datatype": "FP33"}], X.tobytes()), answer([{**Y, "shape": "12"}], X.tobytes()),
        answer([{**Y, "parameters": {"binary_data_size": -8}}], X.tobytes()),
        answer([{"name": "y", "shape": [2], "datatype": "INT32", "data": [1.5, 2]}]),
        answer([{"name": "y", "shape": [2], "datatype": "FP32"}]), answer([{**Y, "shape": [0, 1 << 70]}]),
        answer([Y], X.tobytes(), parameters="x"), answer([{**Y, "parameters": "x"}], X.tobytes()), answer([1]),  # type: ignore[list-item]
        answer({"y": 1}), (b'{"error":"x","parameters":1}', -1),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_is_no_answer_is_an_error_and_never_an_array(payload: bytes, length: int) -> None:
    with pytest.raises(BadReplyError):
        AnswerReader().read(payload, length, ASKED)


@pytest.mark.parametrize("size", range(len(GOOD)))
def test_an_answer_that_is_cut_anywhere_is_an_error(size: int) -> None:
    with pytest.raises(BadReplyError):
        AnswerReader().read(GOOD[:size], min(LENGTH, size), ASKED)


def test_metadata_as_agents_write_it_is_read() -> None:
    model = read_model((GOLDEN / "metadata-model.json").read_bytes(), -1, Expected("r1", "lenet", "edge-1"))
    assert model.ready
    assert model.inputs[0].datatype == model.datatypes[model.inputs[0].name]
    assert not read_model(
        (GOLDEN / "metadata-model-waiting.json").read_bytes(), -1, Expected("a", "iris", "", has_id=False)
    ).ready
    assert read_server((GOLDEN / "metadata-server.json").read_bytes(), -1, Expected("r1", "", "edge-1")).models


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"name":1}', b"[" * 100_000])
def test_what_is_no_metadata_is_an_error(payload: bytes) -> None:
    for read in (read_model, read_server):
        with pytest.raises(BadReplyError):
            read(payload, -1, ASKED)


def test_what_is_remembered_of_a_model_expires_and_what_is_not_ready_is_not_remembered() -> None:
    known, key = Descriptions(), ("d", "m")
    known.put(key, ModelDescription("d", "m", ready=True), 0.0)
    assert known.knows(key, 100.0)
    assert not known.knows(key, 1000.0)
    known.put(key, ModelDescription("d", "m", ready=False), 0.0)
    assert not known.knows(key, 0.0)


def test_a_picture_is_a_jpeg_or_a_png() -> None:
    assert picture_type(b"\xff\xd8\xff\xe0") == "image/jpeg"
    assert picture_type(b"\x89PNG\r\n\x1a\n") == "image/png"
    with pytest.raises(BadRequestError):
        picture_type(b"GIF89a")


def test_the_parts_of_a_brokers_address() -> None:
    found = parse_broker("mqtts://me:p%40ss@broker.example:9000")
    assert (found.host, found.port, found.tls, found.username, found.password) == (
        "broker.example", 9000, True, "me", "p@ss")  # fmt: skip
    assert "p@ss" not in repr(found) + str(found)
    assert parse_broker("mqtt://b").port == 1883
    assert parse_broker("wss://b/x").websocket_path == "/x"


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("broker", {}), ("http://broker", {}), ("mqtt://", {}), ("mqtt://b/path", {}),
        ("mqtt://b", {"ca_file": "x"}), ("mqtt://b", {"protocol": "4"}), ("mqtt://b", {"when_offline": "no"}),
        ("mqtt://b", {"reply_prefix": "modelfleet/v1"}), ("mqtt://b", {"client_id": "a/#"}),
        ("mqtt://b", {"prefix": "/x"}), ("mqtt://b", {"max_in_flight": 0}),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_refused(url: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        make_settings(url, **settings)


def test_the_reply_topic_has_the_client_id_and_what_nobody_can_guess() -> None:
    topics = {make_settings("mqtt://b", client_id="me").reply_topic for _ in range(10)}
    assert len(topics) == 10
    assert all(topic.startswith("modelfleet-replies/me/") for topic in topics)


@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), length=st.sampled_from([LENGTH, -1, 0, LENGTH + 1]))
def test_an_answer_with_any_byte_changed_is_an_error_or_has_a_tensor_of_its_shape(
    at: int, byte: int, length: int
) -> None:
    payload = GOOD[:at] + bytes((byte,)) + GOOD[at + 1 :]
    try:
        read = AnswerReader().read(payload, length, ASKED)
    except DeviceError:
        return
    assert all(array.nbytes == 8 for array in read.outputs.values())


@given(st.binary(max_size=64), st.integers(-1, 70))
def test_any_bytes_are_an_error(payload: bytes, length: int) -> None:
    with pytest.raises(DeviceError):
        AnswerReader().read(payload, length, ASKED)


def test_the_options_that_are_declared_are_those_that_are_taken() -> None:
    assert set(ClientOptions.__annotations__) == set(inspect.signature(make_settings).parameters) - {"url"}
