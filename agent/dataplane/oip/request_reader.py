"""Requests to one active worker: what their JSON object asks, checked against the model, and cached by its bytes.

Clients repeat their header, often with only the id changed, so plans are kept by the header's bytes, an id at its
very start (where the usual client libraries write it) cut out. The model's signature is compiled for fast checks.

Numbers from outside are checked before they are used: dimensions 0..2^31, rank <= MAX_RANK, elements <=
MAX_ELEMENTS, tensors <= MAX_TENSORS, bytes <= the model's payload limit. Python's integers do not overflow.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from agent.dataplane.oip.detector import Detector, limits_named
from agent.dataplane.oip.plan import Binding, DetectionPlan, InputTensor, RequestedOutput, RequestPlan
from agent.worker.channel import Layout
from registry.contracts.catalogue.detection import DETECTED
from registry.contracts.catalogue.manifest import TensorSpec
from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import ITEM_BYTES, MAX_BYTES_ELEMENTS, MAX_ELEMENTS, MAX_RANK, Datatype
from registry.inference.errors import RequestError, quote
from registry.inference.json_tensors import data_from_json
from registry.inference.packets import Buffer
from registry.inference.request import (
    MAX_ID,
    NO_PARAMETERS,
    InferRequest,
    RequestInput,
    RequestOutput,
    RequestParameters,
    decode_request,
    note_address,
    require_supported,
)

_LENGTH = struct.Struct("<I")
LABEL = "label"
SCORE = "score"
"""The outputs that a model with a classification has besides its own."""


@dataclass(frozen=True)
class _Input:
    """One input of the model, with what its usual form looks like."""

    index: int
    spec: TensorSpec
    fixed_shape: tuple[int, ...] | None
    """The shape of one fixed item; None when the model has no fixed slots, or this input none in them."""
    fixed_bytes: int


@dataclass(frozen=True)
class Selection:
    """What a reply carries, and what the worker must give for it."""

    outputs: tuple[RequestedOutput, ...]
    run_outputs: tuple[str, ...] | None
    classify: frozenset[str]
    detect: DetectionPlan | None = None


class Signature:
    """The inputs and outputs of one active worker."""

    def __init__(self, binding: Binding, layout: Layout, detector: Detector | None) -> None:
        fixed = layout.slots > 0
        if fixed and [t.name for t in layout.inputs] != [t.name for t in binding.inputs]:
            raise ValueError("the worker's layout and the binding disagree in their inputs")
        self._max_payload = binding.max_payload
        self._has_fixed = fixed
        self._required = len(binding.inputs)
        self.inputs = {
            spec.name: _Input(
                index,
                spec,
                layout.request_shape(layout.inputs[index]) if fixed and index < self._required else None,
                layout.inputs[index].item_bytes if fixed and index < self._required else 0,
            )
            for index, spec in enumerate((*binding.inputs, *binding.optional_inputs))
        }
        self._outputs = tuple(spec.name for spec in binding.outputs)
        self._detector = detector
        self._made: tuple[str, ...] = ()
        """Outputs that the model itself does not have."""
        self._sources: tuple[str, ...] = ()
        """The model's outputs that those are made of."""
        if binding.classification is not None:
            self._made, self._sources = (LABEL, SCORE), (binding.classification.output,)
        elif detector is not None:
            self._made, self._sources = DETECTED, detector.declared.outputs
        self.image_input = binding.image.input if binding.image else None

    def find(self, name: str) -> _Input:
        """The input of that name, or `unknown_input`."""
        known = self.inputs.get(name)
        if known is None:
            raise RequestError(
                InferenceCode.UNKNOWN_INPUT, f"no input {quote(name)}: the model has {_names(self.inputs)}"
            )
        return known

    def is_picture(self, known: _Input, datatype: str) -> bool:
        """Is this a picture in place of the image input's tensor?"""
        return datatype == "BYTES" and known.spec.name == self.image_input and known.spec.datatype != Datatype.BYTES

    def check(self, known: _Input, datatype: str, shape: tuple[int, ...]) -> int:
        """The bytes that the tensor must have; -1 for BYTES, where any size may be. Refuses what does not fit."""
        spec = known.spec
        if datatype != spec.datatype:
            raise RequestError(
                InferenceCode.WRONG_DATATYPE,
                f"input {quote(spec.name)}: expected datatype {spec.datatype}, got {quote(datatype)}",
            )
        if shape == known.fixed_shape:
            return known.fixed_bytes
        if spec.any_rank:
            fits = len(shape) <= MAX_RANK and min(shape, default=0) >= 0
        else:
            fits = len(shape) == len(spec.shape) and all(
                got >= 0 and want in (got, -1) for got, want in zip(shape, spec.shape, strict=True)
            )
        if not fits:
            wanted = f"at most {MAX_RANK} dimensions" if spec.any_rank else f"shape {list(spec.shape)} (-1: any size)"
            raise RequestError(
                InferenceCode.WRONG_SHAPE, f"input {quote(spec.name)}: expected {wanted}, got {_shape(shape)}"
            )
        return self._bytes_of(spec, shape)

    def _bytes_of(self, spec: TensorSpec, shape: tuple[int, ...]) -> int:
        elements = prod(shape)
        limit = MAX_BYTES_ELEMENTS if spec.datatype == Datatype.BYTES else MAX_ELEMENTS
        if elements > limit or max(shape, default=0) > MAX_ELEMENTS:
            raise RequestError(
                InferenceCode.TOO_LARGE,
                f"input {quote(spec.name)}: at most {limit} elements, shape {_shape(shape)} has {elements}",
            )
        if spec.datatype == Datatype.BYTES:
            return -1
        size = elements * ITEM_BYTES[spec.datatype]
        if size > self._max_payload:
            raise RequestError(
                InferenceCode.TOO_LARGE,
                f"input {quote(spec.name)}: {size} bytes, over the limit of {self._max_payload} for a request",
            )
        return size

    def complete(self, tensors: list[InputTensor]) -> tuple[InputTensor, ...]:
        """The tensors in the model's order; refuses an input that is missing or there twice."""
        if len(tensors) == 1 == len(self.inputs):
            return (tensors[0],)
        got = {tensor.place: tensor for tensor in tensors}
        if len(got) != len(tensors):
            raise RequestError(
                InferenceCode.BAD_PAYLOAD, f"an input is there twice: {_names([t.name for t in tensors])}"
            )
        missing = [
            name for name, known in self.inputs.items() if known.index < self._required and known.index not in got
        ]
        if missing:
            raise RequestError(InferenceCode.MISSING_INPUT, f"missing input {_names(missing)}")
        return tuple(got[index] for index in sorted(got))

    def fits_fixed(self, tensors: Sequence[InputTensor]) -> bool:
        """Is the request one item for a fixed slot?"""
        return (
            self._has_fixed
            and len(tensors) == self._required
            and all(t.shape == self.inputs[t.name].fixed_shape for t in tensors)
        )

    def select(
        self,
        requested: Sequence[tuple[str, bool | None]] | None,
        said: RequestParameters,
        picture: bool,
        tensors: Sequence[InputTensor] = (),
    ) -> Selection:
        """Which outputs a reply carries: those named, else the labels or detections of a picture, else all.

        `tensors`: the request's, where it is no picture.
        """
        asked_for = said.detections if self._detector is not None else None
        if not requested:
            wanted = self._made and (picture if asked_for is None else asked_for)
            requested = [(name, None) for name in (self._made if wanted else self._outputs)]
        if len({name for name, _ in requested}) != len(requested):
            raise RequestError(
                InferenceCode.BAD_PAYLOAD, f"an output is asked for twice: {_names([n for n, _ in requested])}"
            )
        run: list[str] = []
        made: list[str] = []
        for name, _ in requested:
            mine = name in self._made and asked_for is not False and (asked_for or picture or name not in self._outputs)
            if not mine and name not in self._outputs:
                more = f", and what is made of them: {_names(self._made)}" if self._made else ""
                has = _names(self._outputs) + more
                raise RequestError(InferenceCode.UNKNOWN_OUTPUT, f"no output {quote(name)}: the model has {has}")
            made += [name] if mine else []
            run += [source for source in (self._sources if mine else (name,)) if source not in run]
        binary = bool(said.binary_data_output)
        outputs = tuple(RequestedOutput(name, binary if asked is None else asked) for name, asked in requested)
        runs = None if tuple(run) == self._outputs else tuple(run)
        detect = self._detect(frozenset(made), said, picture, tensors)
        return Selection(outputs, runs, frozenset() if detect else frozenset(made), detect)

    def _detect(
        self, made: frozenset[str], said: RequestParameters, picture: bool, tensors: Sequence[InputTensor]
    ) -> DetectionPlan | None:
        """What is asked of a detector; None: nothing. Raises RequestError."""
        detector = self._detector
        named = limits_named(said)
        if detector is None or not made:
            if named:
                why = "the request asks for no detections" if detector is not None else "the model is no detector"
                raise RequestError(InferenceCode.UNSUPPORTED_PARAMETER, f"the parameter {named}: {why}")
            return None
        if not picture and any(tensor.shape != detector.shape for tensor in tensors):
            raise RequestError(
                InferenceCode.WRONG_SHAPE,
                f"detections are made of one item, of shape {_shape(detector.shape)}: ask for the model's outputs",
            )
        return DetectionPlan(made, detector.limits(said))


def check_values(tensor: InputTensor, data: Buffer) -> None:
    """Refuses BYTES whose lengths do not add up to shape and size, and BOOL bytes other than 0 and 1."""
    if tensor.datatype == Datatype.BYTES:
        _check_lengths(tensor.name, data, prod(tensor.shape))
    elif tensor.datatype == Datatype.BOOL and tensor.size and int(np.frombuffer(data, np.uint8).max()) > 1:
        raise RequestError(
            InferenceCode.WRONG_DATATYPE, f"input {quote(tensor.name)}: expected BOOL bytes of 0 or 1, got another"
        )


def _check_lengths(name: str, data: Buffer, elements: int) -> None:
    at, end = 0, len(data)
    for index in range(elements):
        at += 4 + (_LENGTH.unpack_from(data, at)[0] if at + 4 <= end else end)
        if at > end:
            raise RequestError(
                InferenceCode.SIZE_MISMATCH,
                f"input {quote(name)}: element {index} of {elements} ends behind the tensor's {end} bytes",
            )
    if at != end:
        raise RequestError(
            InferenceCode.SIZE_MISMATCH,
            f"input {quote(name)}: {elements} elements take {at} bytes, got {end}",
        )


def _names(names: Sequence[str] | dict[str, _Input]) -> str:
    listed = list(names)
    return ", ".join(quote(name) for name in listed[:4]) + (", …" if len(listed) > 4 else "")


def _shape(shape: tuple[int, ...]) -> str:
    return quote(list(shape[: MAX_RANK + 1]))


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
        selection = self._signature.select(requested, parameters, picture, tensors)
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
            detect=selection.detect,
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
    """Refuses a body of the wrong size, BYTES whose lengths do not add up, BOOL other than 0 and 1."""
    if len(body) != plan.body_bytes:
        raise RequestError(
            InferenceCode.SIZE_MISMATCH, f"expected {plan.body_bytes} bytes of binary tensors, got {len(body)}"
        )
    if plan.check:
        view = memoryview(body)
        for tensor in plan.tensors:
            if tensor.data is None:
                check_values(tensor, view[tensor.offset : tensor.offset + tensor.size])
