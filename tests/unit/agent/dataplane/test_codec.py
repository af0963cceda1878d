"""What a client of the Open Inference Protocol sends is what the model gets, and back, in every form."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from registry.contracts.codes import InferenceCode
from registry.inference.errors import RequestError
from registry.inference.reply import OutputTensor
from tests.support.clients.oip import DTYPES, Input, decode_reply, encode_request, to_bytes
from tests.unit.agent.dataplane.oip_models import DIGEST, echo, input_bytes, make_codec, spec


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, np.ndarray[Any, Any]]:
    datatype = draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    count = int(np.prod(shape))
    if datatype == "BYTES":
        items = draw(st.lists(st.text(max_size=8), min_size=count, max_size=count))
        array = np.empty(count, dtype=object)
        array[:] = [item.encode() for item in items]
        return datatype, array.reshape(shape)
    if datatype == "BF16":
        bits = st.integers(0, 0xFFFF).filter(lambda value: value & 0x7F80 != 0x7F80)
        values = np.array(draw(st.lists(bits, min_size=count, max_size=count)), dtype="<u4") << 16
        return datatype, values.astype("<u4").view("<f4").reshape(shape)
    numbers = None
    if datatype.startswith("FP"):
        numbers = st.floats(allow_nan=False, allow_infinity=False, width=int(datatype[2:]))
    return datatype, draw(hnp.arrays(DTYPES[datatype], shape, elements=numbers))


FORMS = st.fixed_dictionaries(
    {name: st.booleans() for name in ("dynamic", "binary", "binary_output", "nested", "magic")}
)


NESTED_JSON = {"dynamic": False, "binary": False, "binary_output": False, "nested": True, "magic": False}


@given(tensor=tensors(), form=FORMS)
@example(tensor=("BYTES", np.array([[[b"a"]], [[b"b"]]], dtype=object)), form=NESTED_JSON)
def test_every_tensor_survives_the_way_to_the_model_and_back(tensor: Any, form: Any) -> None:
    binary_output, magic = form["binary_output"], form["magic"]
    datatype, array = tensor
    shape = (-1,) * array.ndim if form["dynamic"] else array.shape
    codec = make_codec([spec("x", datatype, *shape)], [spec("y", datatype, *shape)])
    request = encode_request(
        [Input("x", datatype, array, form["binary"])],
        request_id="r-1",
        parameters={"binary_data_output": binary_output},
        nested=form["nested"],
        magic=magic,
    )
    reply = echo(codec, request.payload, request.header_length)
    result = decode_reply(reply.join(), reply.header_length)
    assert result.header["id"] == "r-1"
    assert result.outputs["y"].shape == array.shape
    assert to_bytes(datatype, result.outputs["y"]) == to_bytes(datatype, array)
    assert ("data" in result.header["outputs"][0]) == (not binary_output)
    assert (reply.header_length is not None) == (binary_output and not magic)
    assert reply.join().startswith(b"OIPB") == magic


@given(bits=st.lists(st.integers(0, 255), min_size=8, max_size=8))
def test_binary_floats_keep_every_bit_nan_too(bits: Any) -> None:
    codec = make_codec([spec("x", "FP32", 2)], [spec("y", "FP32", 2)])
    header = b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}}],'
    header += b'"parameters":{"binary_data_output":true}}'
    assert echo(codec, header + bytes(bits), len(header)).join().endswith(bytes(bits))


def test_a_result_says_what_served_it() -> None:
    codec = make_codec([spec("x", "FP32", -1, 1)], [spec("y", "FP32", -1, 1)], rollout="ro-7")
    request = encode_request([Input("x", "FP32", np.ones((1, 1)))])
    header = decode_reply(echo(codec, request.payload, request.header_length).join()).header
    assert header["model_name"] == "m"
    assert header["model_version"] == "3"
    assert header["parameters"] == {
        "variant": "onnx-cpu", "variant_digest": DIGEST, "device": "edge-1", "rollout": "ro-7",
    }  # fmt: skip
    assert "id" not in header


TWO_IN = [spec("a", "FP32", -1, 2), spec("b", "INT64", -1, 1)]
TWO_OUT = [spec("c", "FP32", -1, 2), spec("d", "INT64", -1, 1)]
A = np.array([[1.5, -2.0]], np.float32)
B = np.array([[7]], np.int64)


def test_json_and_binary_inputs_mix_in_one_request_in_any_order() -> None:
    codec = make_codec(TWO_IN, TWO_OUT)
    for inputs in (
        [("b", "INT64", B, False), ("a", "FP32", A, True)],
        [("b", "INT64", B, True), ("a", "FP32", A, True)],
    ):
        request = encode_request([Input(*item) for item in inputs])
        plan, start = codec.decode(request.payload, "", request.header_length)
        assert plan.fixed
        assert input_bytes(plan, request.payload[start:]) == [A.tobytes(), B.tobytes()]


@pytest.mark.parametrize(
    ("outputs", "parameters", "expected"),
    [
        ((), {}, {"c": False, "d": False}),
        ((), {"binary_data_output": True}, {"c": True, "d": True}),
        ([("d", None)], {"binary_data_output": True}, {"d": True}),
        ([("d", None), ("c", True)], {}, {"d": False, "c": True}),
        ([("d", False), ("c", None)], {"binary_data_output": True}, {"d": False, "c": True}),
    ],
)
def test_outputs_come_as_the_protocol_says(outputs: Any, parameters: Any, expected: Any) -> None:
    codec = make_codec(TWO_IN, TWO_OUT)
    inputs = [Input("a", "FP32", A), Input("b", "INT64", B)]
    request = encode_request(inputs, outputs=outputs, parameters=parameters)
    reply = echo(codec, request.payload, request.header_length)
    result = decode_reply(reply.join(), reply.header_length)
    assert {out["name"]: "data" not in out for out in result.header["outputs"]} == expected
    assert list(result.outputs) == list(expected)
    for name, array in result.outputs.items():
        assert array.tolist() == {"c": A, "d": B}[name].tolist()


def test_a_batch_and_an_item_take_their_own_ways_and_say_their_shape() -> None:
    codec = make_codec([spec("x", "FP32", -1, 2)], [spec("y", "FP32", -1, 2)])
    for rows, fixed in ((1, True), (3, False), (0, False)):
        array = np.arange(rows * 2, dtype="<f4").reshape(rows, 2)
        request = encode_request([Input("x", "FP32", array)], parameters={"binary_data_output": True})
        plan, _ = codec.decode(request.payload, "", request.header_length)
        assert plan.fixed == fixed
        reply = echo(codec, request.payload, request.header_length)
        assert decode_reply(reply.join(), reply.header_length).outputs["y"].tolist() == array.tolist()


def test_a_fixed_binary_reply_is_the_workers_memory_without_a_copy() -> None:
    codec = make_codec([spec("x", "FP32", -1, 2)], [spec("y", "FP32", -1, 2)])
    request = encode_request([Input("x", "FP32", A)], parameters={"binary_data_output": True})
    plan, _ = codec.decode(request.payload, "", request.header_length)
    view = memoryview(bytearray(8))
    assert codec.encode_fixed(plan, [view]).pieces[1] is view


@pytest.mark.parametrize("field", ["id", "none"])
def test_headers_that_come_again_are_answered_by_the_same_rules(field: Any) -> None:
    codec = make_codec([spec("x", "FP32", -1, 2)], [spec("y", "FP32", -1, 2)])
    for number in range(200):
        request_id = f"id é{number}" if number % 3 == 0 else f"id-{number}"
        text = request_id if field == "id" else ""
        request = encode_request([Input("x", "FP32", A)], request_id=text, parameters={"binary_data_output": True})
        reply = echo(codec, request.payload, request.header_length)
        result = decode_reply(reply.join(), reply.header_length)
        assert result.header.get("id", "") == text
        assert result.outputs["y"].tolist() == A.tolist()


def test_an_id_cannot_smuggle_anything_into_a_header_that_came_before() -> None:
    codec = make_codec([spec("x", "FP32", 2)], [spec("y", "FP32", 2)])
    rest = b'","inputs":[{"name":"x","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}}]'
    double = rest + b',"id":"last"}'
    for first in (b"one", b"two"):
        assert codec.decode_header(b'{"id":"' + first + rest + b"}").id == first.decode()
        assert codec.decode_header(b'{"id":"' + first + double).id == "last"
    for bad in (b"\x01", b"\xff", b"\\", b"\\u12", b"a" * 300):
        with pytest.raises(RequestError) as refused:
            codec.decode_header(b'{"id":"' + bad + rest + b"}")
        assert refused.value.code == InferenceCode.BAD_PAYLOAD
    assert codec.decode_header(b'{"id":"\\u0061' + rest + b"}").id == "a"


def test_a_311_client_names_its_reply_in_the_payload_and_gets_its_correlation_back() -> None:
    codec = make_codec([spec("x", "FP32", -1, 2)], [spec("y", "FP32", -1, 2)])
    where = {"response_topic": "me/replies", "correlation_id": 'c"1'}
    for magic, binary in ((True, True), (False, False)):
        request = encode_request([Input("x", "FP32", A, binary)], parameters=where, magic=magic)
        plan, _ = codec.decode(request.payload)
        assert (plan.response_topic, plan.correlation_id) == ("me/replies", 'c"1')
        reply = echo(codec, request.payload)
        assert reply.header_length is None
        assert reply.join().startswith(b"OIPB") == magic
        assert decode_reply(reply.join()).header["parameters"]["correlation_id"] == 'c"1'
    wants = {**where, "binary_data_output": True}
    reply = echo(codec, encode_request([Input("x", "FP32", A, False)], parameters=wants).payload)
    assert reply.join().startswith(b"OIPB")
    assert decode_reply(reply.join()).outputs["y"].tolist() == A.tolist()


def test_the_same_header_in_both_binary_forms_gets_each_forms_reply() -> None:
    codec = make_codec([spec("x", "FP32", -1, 2)], [spec("y", "FP32", -1, 2)])
    for magic in (False, True, False, True):
        request = encode_request([Input("x", "FP32", A)], parameters={"binary_data_output": True}, magic=magic)
        reply = echo(codec, request.payload, request.header_length)
        assert reply.join().startswith(b"OIPB") == magic
        assert decode_reply(reply.join(), reply.header_length).outputs["y"].tolist() == A.tolist()


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BF16"])
def test_nan_and_infinities_stand_in_json_as_triton_reads_and_writes_them(datatype: str) -> None:
    codec = make_codec([spec("x", datatype, -1)], [spec("y", datatype, -1)])
    payload = json_request(datatype, "[NaN, -NaN, Infinity, Inf, -Infinity, -Inf, 1.5, 2]")
    reply = echo(codec, payload).join()
    assert b'"data":[NaN,NaN,Infinity,Infinity,-Infinity,-Infinity,1.5,2.0]' in reply
    twice = echo(codec, json_request(datatype, json.dumps(json.loads(reply)["outputs"][0]["data"])))
    assert twice.join() == reply, "what a device writes it also reads"


def test_a_nested_array_may_hold_nan() -> None:
    codec = make_codec([spec("x", "FP32", -1, 2)], [spec("y", "FP32", -1, 2)])
    payload = b'{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1,NaN],[-Infinity,4]]}]}'
    assert b'"data":[1.0,NaN,-Infinity,4.0]' in echo(codec, payload).join()


def test_text_that_spells_nan_stays_text_beside_a_nan() -> None:
    codec = make_codec([spec("x", "FP32", 1), spec("t", "BYTES", 2)], [spec("x", "FP32", 1), spec("t", "BYTES", 2)])
    inputs = (
        b'{"name":"t","shape":[2],"datatype":"BYTES","data":["NaN, \\"Inf\\\\","-Infinity"]},'
        b'{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}'
    )
    plan, _ = codec.decode(b'{"inputs":[' + inputs + b"]}")
    first, text = b'NaN, "Inf\\', b"-Infinity"
    packed = struct.pack("<I", len(first)) + first + struct.pack("<I", len(text)) + text
    assert [tensor.data for tensor in plan.tensors] == [np.float32(np.nan).tobytes(), packed]


@pytest.mark.parametrize("null", ["id", "model_name", "model_version", "parameters", "outputs"])
def test_what_a_request_may_leave_out_may_be_null(null: str) -> None:
    codec = make_codec([spec("x", "FP32", 1)], [spec("y", "FP32", 1)])
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0], "parameters": None}
    assert b'"data":[1.0]' in echo(codec, json.dumps({null: None, "inputs": [tensor]}).encode()).join()
    header = json.dumps({null: None, "inputs": [{**tensor, "data": None, "parameters": {"binary_data_size": 4}}]})
    for start in (header.encode(), b"OIPB" + struct.pack("<I", len(header)) + header.encode()):
        length = None if start[:4] == b"OIPB" else len(header)
        assert b"error" not in echo(codec, start + b"\0\0\x80?", length).join()


@pytest.mark.parametrize("null", ["binary_data_output", "response_topic", "correlation_id"])
def test_a_parameter_may_be_null(null: str) -> None:
    codec = make_codec([spec("x", "FP32", 1)], [spec("y", "FP32", 1)])
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0], "parameters": {"binary_data_size": None}}
    output = {"name": "y", "parameters": {"binary_data": None, "shared_memory_region": None}}
    for outputs in ([output], [{"name": "y", "parameters": None}]):
        request = {"id": "7", "parameters": {null: None}, "inputs": [tensor], "outputs": outputs}
        assert b'"data":[1.0]' in echo(codec, json.dumps(request).encode()).join()


def test_a_byte_order_mark_is_skipped() -> None:
    codec = make_codec([spec("x", "FP32", 1)], [spec("y", "FP32", 1)])
    marked = b"\xef\xbb\xbf" + json_request("FP32", "[1.0]")
    assert b'"data":[1.0]' in echo(codec, marked).join()
    request = encode_request([Input("x", "FP32", np.ones(1))])
    assert request.header_length is not None
    payload = b"\xef\xbb\xbf" + request.payload
    assert b'"data":[1.0]' in echo(codec, payload, request.header_length + 3).join()


def json_request(datatype: str, data: str) -> bytes:
    """One input x with that text as its data."""
    shape = [data.count(",") + 1]
    tensor = f'{{"name":"x","shape":{shape},"datatype":"{datatype}","data":{data}}}'
    return b'{"id":"1","inputs":[' + tensor.encode() + b"]}"


def test_bytes_that_are_not_text_are_refused_as_json_with_the_way_out() -> None:
    codec = make_codec([spec("x", "BYTES", 1)], [spec("y", "BYTES", 1)])
    array = np.array([b"\xff\x00"], dtype=object)
    request = encode_request([Input("x", "BYTES", array)])
    with pytest.raises(RequestError, match="binary_data") as refused:
        echo(codec, request.payload, request.header_length)
    assert refused.value.code == InferenceCode.RUN_FAILED
    request = encode_request([Input("x", "BYTES", array)], parameters={"binary_data_output": True})
    reply = echo(codec, request.payload, request.header_length)
    assert decode_reply(reply.join(), reply.header_length).outputs["y"].tolist() == [b"\xff\x00"]


def test_a_worker_that_gives_wrong_sizes_or_no_output_fails_the_run_only() -> None:
    codec = make_codec([spec("x", "FP32", -1)], [spec("y", "FP32", -1)])
    request = encode_request([Input("x", "FP32", np.ones(3))])
    plan, _ = codec.decode(request.payload, "", request.header_length)
    for outputs in ([OutputTensor("y", "FP32", (3,), b"\0" * 11)], [OutputTensor("z", "FP32", (1,), b"\0" * 4)]):
        with pytest.raises(RequestError) as refused:
            codec.encode_reply(plan, outputs)
        assert refused.value.code == InferenceCode.RUN_FAILED


def test_an_error_is_plain_json_that_says_who_refused() -> None:
    codec = make_codec([spec("x", "FP32", -1)], [spec("y", "FP32", -1)])
    reply = codec.encode_error("overloaded", "queue is full", "r-1", "c-1")
    header = decode_reply(reply.join(), reply.header_length).header
    assert (header["error"], header["code"], header["id"]) == ("queue is full", "overloaded", "r-1")
    assert header["parameters"]["device"] == "edge-1"
    assert header["parameters"]["correlation_id"] == "c-1"
    assert header["model_version"] == "3"
