"""Requests to one active worker: what their JSON object asks, checked against the model, and cached by its bytes.

Clients repeat their header, often with only the id changed, so plans are kept by the header's bytes, an id at its
very start (where the usual client libraries write it) cut out.
"""

from __future__ import annotations

from agent.dataplane.oip.binding import Binding
from agent.dataplane.oip.plan import InputTensor, RequestPlan
from agent.dataplane.oip.signature import Signature, check_values
from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import Datatype
from registry.inference.errors import RequestError, quote
from registry.inference.json_tensors import data_from_json
from registry.inference.packets import Buffer
from registry.inference.request import (
    MAX_ID,
    NO_PARAMETERS,
    InferRequest,
    RequestInput,
    RequestOutput,
    decode_request,
    note_address,
    require_supported,
)

MAX_CACHED_PLANS = 64
MAX_CACHED_HEADER = 1024
"""Bytes; longer headers are decoded each time."""
_ID_START = b'{"id":"'


class RequestReader:
    """Reads the JSON object of requests to one active worker."""

    def __init__(self, binding: Binding, signature: Signature) -> None:
        self._binding = binding
        self._signature = signature
        self._plans: dict[bytes, RequestPlan] = {}

    def read_header(self, header: bytes) -> RequestPlan:
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

    def _keep(self, key: bytes, plan: RequestPlan) -> None:
        if len(key) > MAX_CACHED_HEADER:
            return
        if len(self._plans) >= MAX_CACHED_PLANS:
            # A new dict, not one emptied: another thread may be looking at the old one.
            self._plans = {key: plan}
        else:
            self._plans[key] = plan

    def read(self, text: Buffer) -> RequestPlan:
        """The plan of a request's JSON object."""
        request, mark = decode_request(text)
        try:
            return self._plan(request, mark)
        except RequestError as error:
            note_address(error, request)
            raise

    def _plan(self, request: InferRequest, mark: bytes) -> RequestPlan:
        self._check_addressee(request)
        if request.inputs is None and self._binding.inputs:
            raise RequestError(InferenceCode.BAD_PAYLOAD, "expected inputs: the model needs them")
        tensors, body_bytes, picture = self._tensors(request.inputs or [], mark)
        if picture and len(tensors) > 1:
            raise RequestError(InferenceCode.BAD_PAYLOAD, "beside a picture no other input can be given: send tensors")
        requested = [_requested(output) for output in request.outputs] if request.outputs else None
        parameters = request.parameters or NO_PARAMETERS
        selection = self._signature.select(requested, bool(parameters.binary_data_output), picture)
        fixed = not picture and self._signature.fits_fixed(tensors)
        return RequestPlan(
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

    def _check_addressee(self, request: InferRequest) -> None:
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

    def _tensors(self, inputs: list[RequestInput], mark: bytes) -> tuple[tuple[InputTensor, ...], int, bool]:
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

    def _tensor(self, item: RequestInput, offset: int, mark: bytes) -> tuple[InputTensor, bool]:
        if item.parameters is not None:
            require_supported(f"input {quote(item.name)}", item.parameters)
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


def _requested(output: RequestOutput) -> tuple[str, bool | None]:
    if output.parameters is None:
        return output.name, None
    require_supported(f"output {quote(output.name)}", output.parameters)
    return output.name, output.parameters.binary_data


def check_body(plan: RequestPlan, body: Buffer) -> None:
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
