"""Requests to plans, outputs to replies: the Open Inference Protocol (KServe v2) for one active worker.

Forms of a request, distinguished in this order:
1. header length given (MQTT 5 user property): JSON header, then binary tensors;
2. payload begins with BINARY_MAGIC: the same, self-contained, for MQTT 3.1.1;
3. content type image/jpeg or image/png, or a payload that begins as one: a picture;
4. else JSON.

Output form is the protocol's: JSON, unless `binary_data_output` (all) or `binary_data` (one output, wins) asks.
Pure: no I/O, no threads of its own. Decoding is safe in any thread (long JSON and pictures belong in another than
the loop's), encoding only in one.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from agent.dataplane.oip.detector import Detector
from agent.dataplane.oip.plan import Binding, InputTensor, RequestPlan
from agent.dataplane.oip.reply_encoder import Classifier, ReplyEncoder
from agent.dataplane.oip.request_reader import RequestReader, Signature, check_body
from agent.errors import TransientError
from agent.worker.channel import Layout
from agent.worker.spawn import printable
from registry.contracts.catalogue.manifest import ImageInput, TensorSpec
from registry.contracts.catalogue.picture_inputs import request_shape
from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import (
    BINARY_MAGIC,
    CONTENT_BINARY,
    CONTENT_IMAGES,
    CONTENT_JSON,
    ITEM_BYTES,
    MAX_JSON_BYTES,
    Datatype,
)
from registry.inference.errors import RequestError, quote
from registry.inference.header import MAGIC_BYTES, check_header_length, checked_header_end
from registry.inference.packets import Buffer
from registry.inference.request import NO_PARAMETERS
from registry.pictures.bare import PictureError, sniff
from registry.pictures.placement import placed
from registry.pictures.steps import DecodedPicture, PictureSteps, steps_of, value_tables


class PictureInput:
    """How pictures become the model's only input: what `decode` of registry.pictures is told, and the shape."""

    def __init__(self, declared: ImageInput, spec: TensorSpec, max_bytes: int) -> None:
        """Raises ValueError when the declaration does not fit the input, or its tensor is over `max_bytes`."""
        datatype = Datatype(spec.datatype)
        if datatype in (Datatype.BOOL, Datatype.BYTES):
            raise ValueError(f"a picture cannot become {datatype}")
        self.steps = steps_of(declared, str(datatype))
        item = self.steps.shape
        self.datatype = str(datatype)
        shape = request_shape(item, spec.shape)
        if shape is None:
            raise ValueError(f"a picture makes shape {list(item)}, input {spec.name!r} has {list(spec.shape)}")
        self.shape = shape
        size = prod(item) * ITEM_BYTES[datatype]
        if size > max_bytes:
            raise ValueError(f"a picture makes {size} bytes, over this model's limit of {max_bytes}")
        self.tensor_bytes = size
        value_tables(self.steps)


_OIP_TYPES = ("", CONTENT_JSON, CONTENT_BINARY)


class Codec:
    """Compiled once per active worker. Every refusal is a RequestError."""

    def __init__(self, binding: Binding, layout: Layout) -> None:
        self.binding = binding
        self._pictures, self._no_pictures = _picture_input(binding)
        self.detector = _detector(binding, self._pictures)
        self._signature = Signature(binding, layout, self.detector)
        self._reader = RequestReader(binding, self._signature)
        self.decode_header = self._reader.read_header
        """The JSON header of a binary request, without its body, to its plan: what the fast path calls.

        The caller bounds its length (MAX_HEADER_BYTES), compares `plan.body_bytes` with what came, and calls
        `check_body` when `plan.check`. A repeated header costs one dict look-up.
        """
        self.check_body = check_body
        classes = binding.classification
        replies = ReplyEncoder(binding, layout, Classifier(classes, binding.outputs) if classes else None)
        self.encode_fixed = replies.fixed
        self.fixed_outputs = replies.fixed_outputs
        self.encode_reply = replies.any
        self.encode_error = replies.error

    def decode(
        self, payload: Buffer, content_type: str = "", header_length: int | None = None
    ) -> tuple[RequestPlan, int]:
        """Any request: the plan, and where its body begins in the payload; the body has been checked."""
        if len(payload) > self.binding.max_payload:
            raise RequestError(
                InferenceCode.TOO_LARGE, f"expected at most {self.binding.max_payload} bytes, got {len(payload)}"
            )
        view = memoryview(payload)
        kind = content_type.partition(";")[0].strip().lower()
        if header_length is not None:
            check_header_length(header_length, len(view))
            plan, start = self.decode_header(bytes(view[:header_length])), header_length
        elif view[: len(BINARY_MAGIC)] == BINARY_MAGIC:
            start = checked_header_end(view)
            plan = self.decode_header(bytes(view[MAGIC_BYTES:start]))
            plan = plan.variant(plan.id, magic=True)
        elif kind in CONTENT_IMAGES or (kind != CONTENT_JSON and sniff(view)):
            plan, start = self.image_plan(len(view)), 0
        elif kind in _OIP_TYPES:
            plan, start = self.decode_json(view), len(view)
        else:
            raise RequestError(
                InferenceCode.UNSUPPORTED_CONTENT_TYPE,
                f"expected {CONTENT_JSON}, {CONTENT_BINARY} or {' or '.join(CONTENT_IMAGES)}, got {quote(kind)}",
            )
        self.check_body(plan, view[start:])
        return plan, start

    def decode_json(self, payload: Buffer) -> RequestPlan:
        """A whole request in JSON; its tensors are in `plan.tensors[i].data` and `plan.literals`.

        Slow when long: about 6 ms a MiB.
        """
        if len(payload) > MAX_JSON_BYTES:
            raise RequestError(
                InferenceCode.TOO_LARGE,
                f"expected at most {MAX_JSON_BYTES} bytes of JSON, got {len(payload)}: send tensors as binary",
            )
        plan = self._reader.read(payload)
        if plan.body_bytes:
            raise RequestError(
                InferenceCode.BAD_PAYLOAD,
                "binary_data_size without binary tensors: give inference-header-content-length, or begin with "
                f"{BINARY_MAGIC!r}",
            )
        # A 3.1.1 client sees no property with the header's length: binary outputs need the self-contained form.
        plan.magic = bool(plan.response_topic) and any(asked.binary for asked in plan.outputs)
        return plan

    def image_plan(self, size: int) -> RequestPlan:
        """The plan of a payload of `size` bytes that is a picture (`plan.image`); refused when the model takes none."""
        picture = self._picture_input()
        spec = self.binding.inputs[0]
        selection = self._signature.select(None, NO_PARAMETERS, picture=True)
        return RequestPlan(
            tensors=(InputTensor(0, spec.name, picture.datatype, picture.shape, 0, size, None),),
            body_bytes=size,
            outputs=selection.outputs,
            run_outputs=selection.run_outputs,
            image=True,
            classify=selection.classify,
            detect=selection.detect,
        )

    def decode_image(
        self, plan: RequestPlan, body: Buffer, decode: Callable[[PictureSteps, bytes], DecodedPicture]
    ) -> RequestPlan:
        """Decodes and prepares the picture of a plan with `image`: the plan that comes back can run.

        Milliseconds; for a decode thread. `body` is what follows the header, or the whole payload; `decode` is that of
        registry.pictures, or one that runs it elsewhere. Raises RequestError `bad_image`, `overloaded`.
        """
        wanted = self._picture_input()
        picture = plan.tensors[0]
        # As a BYTES tensor the picture stands behind its u32 length, which check_body has compared with the size.
        start = picture.offset + (4 if picture.datatype == "BYTES" else 0)
        try:
            data, size = decode(wanted.steps, bytes(memoryview(body)[start : picture.offset + picture.size]))
        except PictureError as error:
            raise RequestError(InferenceCode.BAD_IMAGE, printable(str(error), 500)) from None
        except TransientError as error:
            raise RequestError(InferenceCode.OVERLOADED, error.message) from None
        tensor = picture._replace(datatype=wanted.datatype, shape=wanted.shape, offset=0, size=len(data), data=data)
        return plan.with_picture(tensor, placed(wanted.steps, size), fixed=self._signature.fits_fixed((tensor,)))

    def picture_tensor(self) -> tuple[bool, int]:
        """Of what a picture becomes: does it fit a fixed slot, and its bytes. Raises RequestError `no_image_input`."""
        wanted = self._picture_input()
        name = self.binding.inputs[0].name
        tensor = InputTensor(0, name, wanted.datatype, wanted.shape, 0, wanted.tensor_bytes, None)
        return self._signature.fits_fixed((tensor,)), wanted.tensor_bytes

    def _picture_input(self) -> PictureInput:
        if self._pictures is None:
            raise RequestError(InferenceCode.NO_IMAGE_INPUT, self._no_pictures)
        return self._pictures


def _detector(binding: Binding, pictures: PictureInput | None) -> Detector | None:
    """None: the manifest declares none, or takes no pictures with this model."""
    if binding.detection is None or pictures is None:
        return None
    return Detector(binding.detection, pictures.steps, pictures.shape)


def _picture_input(binding: Binding) -> tuple[PictureInput | None, str]:
    """How a picture becomes the input, or why it cannot."""
    declared = binding.image
    if declared is None:
        return None, f"the manifest of {binding.model!r} does not declare how it takes pictures: send tensors"
    if len(binding.inputs) != 1 or binding.inputs[0].name != declared.input:
        return None, f"a picture needs {declared.input!r} to be the only input of {binding.model!r}: send tensors"
    try:
        return PictureInput(declared, binding.inputs[0], binding.max_payload), ""
    except ValueError as error:
        return None, f"the manifest's image does not fit the model: {error}"
