"""The JSON object of a request, and the header of a binary one: decoded with types, checked, cached.

The object: {model_name?, model_version?, id?, parameters?, inputs: [{name, shape, datatype, parameters?, data?}],
outputs?: [{name, parameters?}]}. An input has either `data` or `parameters.binary_data_size`; both kinds may be
mixed in one request. Binary tensors follow the header in the order of the inputs, without padding. Unknown fields
are passed over; of a key that is there twice, the last one counts. What may be left out may be null, and a byte-order
mark before the object is skipped. Parameters that would change where a tensor lies or what a result holds, and that are
not had here, are refused by their names: to pass over them would answer something else than what was asked.

Clients repeat their header, often with only the id changed, so plans are kept by the header's bytes, an id at its
very start (where the usual client libraries write it) cut out.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, TypeVar

import msgspec

from agent.dataplane.oip.binding import Binding
from agent.dataplane.oip.codec_json import data_from_json, mark_specials
from agent.dataplane.oip.plan import Buffer, InputTensor, Plan, RequestError, quote
from agent.dataplane.oip.signature import Signature, check_values
from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import BINARY_MAGIC, MAX_HEADER_BYTES, MAX_TENSORS, Datatype
from registry.contracts.topics import MAX_TOPIC_BYTES

MAX_CACHED_PLANS = 64
MAX_CACHED_HEADER = 1024
"""Bytes; longer headers are decoded each time."""
MAX_ID = 256
"""Characters of a request id or correlation id."""
_ID_START = b'{"id":"'
MAGIC_BYTES = len(BINARY_MAGIC) + 4

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_Id = Annotated[str, msgspec.Meta(max_length=MAX_ID)]
_T = TypeVar("_T")


class _SharedMemory(msgspec.Struct, gc=False):
    shared_memory_region: Any = None
    shared_memory_offset: Any = None
    shared_memory_byte_size: Any = None


class _InputParameters(_SharedMemory, gc=False):
    binary_data_size: int | None = None


class _Input(msgspec.Struct, gc=False):
    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: _InputParameters | None = None
    data: msgspec.Raw = msgspec.Raw()


class _OutputParameters(_SharedMemory, gc=False):
    binary_data: bool | None = None
    classification: Any = None


class _Output(msgspec.Struct, gc=False):
    name: str
    parameters: _OutputParameters | None = None


class _Parameters(msgspec.Struct, gc=False, frozen=True):
    binary_data_output: bool | None = None
    response_topic: Annotated[str, msgspec.Meta(max_length=MAX_TOPIC_BYTES)] | None = None
    correlation_id: _Id | None = None


class _Addressed(msgspec.Struct, gc=False):
    id: _Id | None = None
    parameters: _Parameters | None = None


class _Request(_Addressed, gc=False, kw_only=True):
    inputs: Annotated[list[_Input], msgspec.Meta(max_length=MAX_TENSORS)] | None = None
    outputs: Annotated[list[_Output], msgspec.Meta(max_length=MAX_TENSORS)] | None = None
    model_name: str | None = None
    model_version: str | None = None


_NO_PARAMETERS = _Parameters()
_INSTEAD = {
    "shared_memory_region": "a device shares no memory with its clients: send or ask for the tensor itself",
    "classification": "ask for the outputs `label` and `score` of a model that has a classification",
}
"""Parameters of the protocol's extensions that are refused, and what to do instead."""
_DECODER = msgspec.json.Decoder(_Request)
_ADDRESS_DECODER = msgspec.json.Decoder(_Addressed)
MAX_ADDRESS_SEARCH = 64 << 10
"""Bytes of JSON that are read only to find out where a refusal should go."""


def _decoded(decoder: msgspec.json.Decoder[_T], text: Buffer) -> tuple[_T, bytes]:
    """The value, and the mark of its NaN and infinities (see `mark_specials`). Raises what the decoder raises."""
    if text[:3] == BYTE_ORDER_MARK:
        text = memoryview(text)[3:]
    try:
        return decoder.decode(text), b""
    except msgspec.DecodeError:
        marked = mark_specials(text)
        if marked is None:
            raise
        return decoder.decode(marked.text), marked.mark


def split_magic(payload: Buffer) -> int:
    """The header length of a self-contained binary payload, which begins with BINARY_MAGIC."""
    if len(payload) < MAGIC_BYTES:
        raise RequestError(
            InferenceCode.BAD_PAYLOAD, f"{BINARY_MAGIC!r} needs {MAGIC_BYTES} bytes at least, got {len(payload)}"
        )
    (length,) = struct.unpack_from("<I", payload, len(BINARY_MAGIC))
    check_header_length(length, len(payload) - MAGIC_BYTES)
    return int(length)


def check_header_length(length: int, available: int) -> None:
    """Refuses a header that is empty, over MAX_HEADER_BYTES, or longer than the payload."""
    if not 0 < length <= min(available, MAX_HEADER_BYTES):
        raise RequestError(
            InferenceCode.BAD_PAYLOAD,
            f"header length {length}: must be 1..{MAX_HEADER_BYTES} and within the payload's {available} bytes",
        )


def find_address(payload: Buffer, error: RequestError) -> None:
    """Notes in `error` where a refused request, of which nothing was read yet, wants its answer, as far as it says so.

    For requests without a response topic of their own (MQTT 3.1.1): JSON, or the self-contained binary form.
    """
    view = memoryview(payload)
    if view[: len(BINARY_MAGIC)] == BINARY_MAGIC and len(view) >= MAGIC_BYTES:
        (length,) = struct.unpack_from("<I", view, len(BINARY_MAGIC))
        view = view[MAGIC_BYTES : MAGIC_BYTES + length]
    if len(view) > MAX_ADDRESS_SEARCH:
        return
    try:
        found, _ = _decoded(_ADDRESS_DECODER, view)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return
    _address(error, found)


def _address(error: RequestError, request: _Addressed) -> None:
    parameters = request.parameters or _NO_PARAMETERS
    error.id = request.id or ""
    error.response_topic = parameters.response_topic or ""
    error.correlation_id = parameters.correlation_id or ""


class RequestReader:
    """Reads the JSON object of requests to one active worker."""

    def __init__(self, binding: Binding, signature: Signature) -> None:
        self._binding = binding
        self._signature = signature
        self._plans: dict[bytes, Plan] = {}

    def read_header(self, header: bytes) -> Plan:
        """The plan of a binary request's header; one look-up when it came before."""
        plan = self._plans.get(header)
        if plan is not None:
            return plan
        end = header.find(b'"', len(_ID_START)) if header.startswith(_ID_START) else -1
        if end < 0:
            plan = self.read(header)
            if not plan.id and not plan.correlation_id:
                self._keep(header, plan)
            return plan
        raw_id, rest = header[len(_ID_START) : end], header[end:]
        template = self._plans.get(rest)
        if template is not None and len(raw_id) <= MAX_ID and raw_id.isascii() and b"\\" not in raw_id:
            request_id = raw_id.decode("ascii")
            if request_id.isprintable():
                return template.variant(request_id, magic=False)
        plan = self.read(header)
        if b'"id"' not in rest and b"\\" not in header and plan.id.encode() == raw_id and not plan.correlation_id:
            self._keep(rest, plan)
        return plan

    def _keep(self, key: bytes, plan: Plan) -> None:
        if len(key) > MAX_CACHED_HEADER:
            return
        if len(self._plans) >= MAX_CACHED_PLANS:
            # A new dict, not one emptied: another thread may be looking at the old one.
            self._plans = {key: plan}
        else:
            self._plans[key] = plan

    def read(self, text: Buffer) -> Plan:
        """The plan of a request's JSON object."""
        try:
            request, mark = _decoded(_DECODER, text)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise RequestError(
                InferenceCode.BAD_PAYLOAD, f"expected an inference request of the Open Inference Protocol: {error}"
            ) from None
        try:
            return self._plan(request, mark)
        except RequestError as error:
            _address(error, request)
            raise

    def _plan(self, request: _Request, mark: bytes) -> Plan:
        self._check_addressee(request)
        if request.inputs is None and self._binding.inputs:
            raise RequestError(InferenceCode.BAD_PAYLOAD, "expected inputs: the model needs them")
        tensors, body_bytes, picture = self._tensors(request.inputs or [], mark)
        if picture and len(tensors) > 1:
            raise RequestError(InferenceCode.BAD_PAYLOAD, "beside a picture no other input can be given: send tensors")
        wishes = [_wish(output) for output in request.outputs] if request.outputs else None
        parameters = request.parameters or _NO_PARAMETERS
        selection = self._signature.select(wishes, bool(parameters.binary_data_output), picture)
        fixed = not picture and self._signature.fits_fixed(tensors)
        return Plan(
            tensors=tensors,
            body_bytes=body_bytes,
            outputs=selection.outputs,
            run_outputs=selection.run_outputs,
            id=request.id or "",
            fixed=fixed,
            copies=tuple((t.place, t.offset, t.size) for t in tensors if t.data is None),
            literals=tuple((t.place, t.data) for t in tensors if t.data is not None),
            check=any(t.data is None and t.datatype in (Datatype.BYTES, Datatype.BOOL) for t in tensors),
            image=picture,
            classify=selection.classify,
            response_topic=parameters.response_topic or "",
            correlation_id=parameters.correlation_id or "",
        )

    def _check_addressee(self, request: _Request) -> None:
        if request.model_name and request.model_name != self._binding.model:
            raise RequestError(
                InferenceCode.UNKNOWN_MODEL,
                f"the request is for model {quote(request.model_name)}, this topic serves {self._binding.model!r}",
            )
        if request.model_version and request.model_version != self._binding.version:
            raise RequestError(
                InferenceCode.UNKNOWN_VERSION,
                f"the request asks for version {quote(request.model_version)}, "
                f"this device serves {self._binding.version!r}",
            )

    def _tensors(self, inputs: list[_Input], mark: bytes) -> tuple[tuple[InputTensor, ...], int, bool]:
        """The checked tensors, the bytes of the body, and whether the one input is a picture."""
        tensors: list[InputTensor] = []
        offset = 0
        picture = False
        for item in inputs:
            tensor, is_picture = self._tensor(item, offset, mark)
            picture = picture or is_picture
            if tensor.data is None:
                offset += tensor.size
            tensors.append(tensor)
        if offset > self._binding.max_payload:
            raise RequestError(
                InferenceCode.TOO_LARGE, f"{offset} bytes of tensors, over the limit of {self._binding.max_payload}"
            )
        return self._signature.complete(tensors), offset, picture

    def _tensor(self, item: _Input, offset: int, mark: bytes) -> tuple[InputTensor, bool]:
        if item.parameters is not None:
            _require_known(f"input {quote(item.name)}", item.parameters)
        known = self._signature.find(item.name)
        picture = self._signature.is_picture(known, item.datatype)
        if picture:
            if item.shape not in ((1,), (1, 1)):
                raise RequestError(
                    InferenceCode.WRONG_SHAPE,
                    f"input {quote(item.name)}: one picture per request, shape [1], got {quote(list(item.shape[:9]))}",
                )
            expected = -1
        else:
            expected = self._signature.check(known, item.datatype, item.shape)
        given = item.parameters.binary_data_size if item.parameters else None
        text = memoryview(item.data)
        if bytes(text[:5]) == b"null":
            text = memoryview(b"")
        if (given is None) == (len(text) == 0) or (picture and given is None):
            raise RequestError(
                InferenceCode.BAD_PAYLOAD,
                f"input {quote(item.name)}: expected either data or parameters.binary_data_size"
                + (" (a picture only as the latter)" if picture else ""),
            )
        if given is None:
            data = data_from_json(text, item.datatype, item.shape, item.name, mark)
            return InputTensor(known.index, item.name, item.datatype, item.shape, 0, len(data), data), False
        if given < 0 or (expected >= 0 and given != expected):
            raise RequestError(
                InferenceCode.SIZE_MISMATCH,
                f"input {quote(item.name)}: {item.datatype} of shape {quote(list(item.shape))} takes "
                f"{expected if expected >= 0 else 'some'} bytes, binary_data_size is {quote(given)}",
            )
        return InputTensor(known.index, item.name, item.datatype, item.shape, offset, given, None), picture


def _wish(output: _Output) -> tuple[str, bool | None]:
    if output.parameters is None:
        return output.name, None
    _require_known(f"output {quote(output.name)}", output.parameters)
    return output.name, output.parameters.binary_data


def _require_known(who: str, parameters: _InputParameters | _OutputParameters) -> None:
    """Raises RequestError for a parameter of which nothing is done here."""
    for name in parameters.__struct_fields__:
        instead = _INSTEAD.get("shared_memory_region" if name.startswith("shared_memory") else name)
        if instead is not None and getattr(parameters, name) is not None:
            raise RequestError(
                InferenceCode.UNSUPPORTED_PARAMETER, f"{who}: the parameter {name} is not supported; {instead}"
            )


def check_body(plan: Plan, body: Buffer) -> None:
    """Refuses a body of the wrong size, or tensors in it whose values cannot be."""
    if len(body) != plan.body_bytes:
        raise RequestError(
            InferenceCode.SIZE_MISMATCH, f"expected {plan.body_bytes} bytes of binary tensors, got {len(body)}"
        )
    if plan.check:
        view = memoryview(body)
        for tensor in plan.tensors:
            if tensor.data is None:
                check_values(tensor, view[tensor.offset : tensor.offset + tensor.size])
