"""The JSON object of an inference request, and the header of a binary one: its form and its bounds.

The object: {model_name?, model_version?, id?, parameters?, inputs: [{name, shape, datatype, parameters?, data?}],
outputs?: [{name, parameters?}]}. An input has either `data` or `parameters.binary_data_size`; both kinds may be
mixed in one request. Binary tensors follow the header in the order of the inputs, without padding. Unknown fields
are passed over; of a key that is there twice, the last one counts. What may be left out may be null, and a byte-order
mark before the object is skipped. Parameters that would change where a tensor lies or what a result holds, and that are
not had here, are refused by their names: to pass over them would answer something else than what was asked.

Sources: KServe, Open Inference Protocol V2, "Inference Request JSON Object"; Triton Inference Server, extensions for
binary tensor data, shared memory and classification. `response_topic` and `correlation_id` are this product's own, for
clients of MQTT 3.1.1.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import BINARY_MAGIC, MAX_TENSORS
from registry.contracts.topics import MAX_TOPIC_BYTES
from registry.inference.errors import RequestError
from registry.inference.header import MAGIC_BYTES, header_end
from registry.inference.json_tensors import mark_specials
from registry.inference.packets import Buffer

MAX_ID = 256
"""Characters of a request id or correlation id."""
MAX_ADDRESS_SEARCH = 64 << 10
"""Bytes of JSON that are read only to find out where a refusal should go."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_Id = Annotated[str, msgspec.Meta(max_length=MAX_ID)]
_T = TypeVar("_T")


class SharedMemoryParameters(msgspec.Struct, gc=False):
    """Triton's shared memory extension: known, and refused."""

    shared_memory_region: Any = None
    shared_memory_offset: Any = None
    shared_memory_byte_size: Any = None


class InputParameters(SharedMemoryParameters, gc=False):
    """How an input's data comes."""

    binary_data_size: int | None = None
    """Bytes that follow the header; None: the data is in the JSON."""


class RequestInput(msgspec.Struct, gc=False):
    """One input tensor."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: InputParameters | None = None
    data: msgspec.Raw = msgspec.Raw()
    """The text of a JSON array (`registry.inference.json_tensors`); empty: there is none."""


class OutputParameters(SharedMemoryParameters, gc=False):
    """How an output is wanted."""

    binary_data: bool | None = None
    """True: behind the header; False: in the JSON; None: as `binary_data_output` says."""
    classification: Any = None


class RequestOutput(msgspec.Struct, gc=False):
    """One output that is wanted."""

    name: str
    parameters: OutputParameters | None = None


class RequestParameters(msgspec.Struct, gc=False, frozen=True):
    """Of the request as a whole."""

    binary_data_output: bool | None = None
    """True: outputs follow the header, unless one says otherwise."""
    response_topic: Annotated[str, msgspec.Meta(max_length=MAX_TOPIC_BYTES)] | None = None
    """Where the reply goes, for MQTT 3.1.1; the property of MQTT 5 wins."""
    correlation_id: _Id | None = None
    """Echoed in the reply's parameters, for MQTT 3.1.1."""
    detections: bool | None = None
    """Of a detector: True: detections are answered; False: the model's own outputs. None: the former of a picture, the
    latter of tensors, unless outputs are named that only detections have."""
    score_threshold: float | None = None
    """Of a detector: only detections with a higher score are answered, 0 to 1. None: as the manifest says."""
    iou_threshold: float | None = None
    """Of a detector whose boxes the device compares, 0 to 1. None: as the manifest says."""
    max_detections: int | None = None
    """Of a detector, at least 1. None: as the manifest says."""


class AddressedRequest(msgspec.Struct, gc=False):
    """Only what says where and under which name the reply goes."""

    id: _Id | None = None
    parameters: RequestParameters | None = None


class InferRequest(AddressedRequest, gc=False, kw_only=True):
    """The whole object."""

    inputs: Annotated[list[RequestInput], msgspec.Meta(max_length=MAX_TENSORS)] | None = None
    outputs: Annotated[list[RequestOutput], msgspec.Meta(max_length=MAX_TENSORS)] | None = None
    """None or empty: all."""
    model_name: str | None = None
    model_version: str | None = None


NO_PARAMETERS = RequestParameters()
_INSTEAD = {
    "shared_memory_region": "a device shares no memory with its clients: send or ask for the tensor itself",
    "classification": "ask for the outputs `label` and `score` of a model that has a classification",
}
"""Parameters of the protocol's extensions that are refused, and what to do instead."""
_DECODER = msgspec.json.Decoder(InferRequest)
_ADDRESS_DECODER = msgspec.json.Decoder(AddressedRequest)


def decode_request(text: Buffer) -> tuple[InferRequest, bytes]:
    """The request, and the mark of its NaN and infinities (see `mark_specials`). Raises RequestError `bad_payload`."""
    try:
        return _decoded(_DECODER, text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RequestError(
            InferenceCode.BAD_PAYLOAD, f"expected an inference request of the Open Inference Protocol: {error}"
        ) from None


def decode_address(text: Buffer) -> AddressedRequest:
    """What a request without tensors says (`registry.contracts.device.metadata`). Raises RequestError `bad_payload`."""
    try:
        return _decoded(_ADDRESS_DECODER, text)[0]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RequestError(
            InferenceCode.BAD_PAYLOAD, f"expected nothing, or an object with `id` and `parameters`: {error}"
        ) from None


def _decoded(decoder: msgspec.json.Decoder[_T], text: Buffer) -> tuple[_T, bytes]:
    """The value, and the mark of its NaN and infinities . Raises what the decoder raises."""
    if text[:3] == _BYTE_ORDER_MARK:
        text = memoryview(text)[3:]
    try:
        return decoder.decode(text), b""
    except msgspec.DecodeError:
        marked = mark_specials(text)
        if marked is None:
            raise
        return decoder.decode(marked.text), marked.mark


def find_address(payload: Buffer, error: RequestError) -> None:
    """Notes in `error` where a refused request, of which nothing was read yet, wants its answer, as far as it says so.

    For requests without a response topic of their own (MQTT 3.1.1): JSON, or the self-contained binary form.
    """
    view = memoryview(payload)
    if view[: len(BINARY_MAGIC)] == BINARY_MAGIC and len(view) >= MAGIC_BYTES:
        view = view[MAGIC_BYTES : header_end(view)]
    if len(view) > MAX_ADDRESS_SEARCH:
        return
    try:
        found, _ = _decoded(_ADDRESS_DECODER, view)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return
    note_address(error, found)


def note_address(error: RequestError, request: AddressedRequest) -> None:
    """Notes in `error` where the reply to a request that was read goes."""
    parameters = request.parameters or NO_PARAMETERS
    error.id = request.id or ""
    error.response_topic = parameters.response_topic or ""
    error.correlation_id = parameters.correlation_id or ""


def require_supported(who: str, parameters: InputParameters | OutputParameters) -> None:
    """Raises RequestError for a parameter of which nothing is done here."""
    for name in parameters.__struct_fields__:
        instead = _INSTEAD.get("shared_memory_region" if name.startswith("shared_memory") else name)
        if instead is not None and getattr(parameters, name) is not None:
            raise RequestError(
                InferenceCode.UNSUPPORTED_PARAMETER, f"{who}: the parameter {name} is not supported; {instead}"
            )
