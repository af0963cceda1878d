"""What the codec and the loop pass to each other: a checked request, and what both know of the deployment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from registry.contracts.catalogue.detection import Detection
from registry.contracts.catalogue.manifest import Classification, ImageInput, TensorSpec
from registry.pictures.detections import DetectionLimits
from registry.pictures.placement import Placement


@dataclass(frozen=True)
class Binding:
    """One active version of one model on this device."""

    model: str
    version: str
    manifest_digest: str
    variant: str
    variant_digest: str
    device: str
    format: str
    """Of the variant, as the manifest names it."""
    inputs: tuple[TensorSpec, ...]
    """As loaded by the worker: a dimension of -1 takes any size."""
    outputs: tuple[TensorSpec, ...]
    optional_inputs: tuple[TensorSpec, ...] = ()
    """Those that a request may leave out, because the model has a default for them."""
    target: str = ""
    """Of the variant: `cpu`, `gpu` and so on."""
    rollout: str | None = None
    """Id of the rollout that put this version here, also after it ended; None: none did."""
    image: ImageInput | None = None
    classification: Classification | None = None
    detection: Detection | None = None
    max_payload: int = 64 << 20
    """Bytes of a request's payload; longer ones are refused (`too_large`)."""
    record_results: bool = False
    """True: a copy of every result also goes to the results topic."""


class InputTensor(NamedTuple):
    """One input of a request, checked against the model's signature."""

    place: int
    """Index in `Binding.inputs`, and on in `Binding.optional_inputs`."""
    name: str
    datatype: str
    shape: tuple[int, ...]
    offset: int
    """Where its bytes begin in the body (the payload after the header). Means nothing when `data` is there."""
    size: int
    """Bytes: little-endian, row-major; BYTES as (u32 length, bytes) per element."""
    data: bytes | None
    """The bytes themselves when they came as JSON or from a picture."""


class RequestedOutput(NamedTuple):
    """One output as a reply carries it."""

    name: str
    binary: bool


class DetectionPlan(NamedTuple):
    """What a request asks of a detector."""

    names: frozenset[str]
    """Which of `boxes`, `scores`, `classes` and `labels` the reply holds as made from the model's outputs."""
    limits: DetectionLimits


class RequestPlan(msgspec.Struct, gc=False):
    """A checked request: how its body becomes tensors, and how its reply is to look. Shared, so never changed
    after the codec handed it out (the cached reply prefix aside)."""

    tensors: tuple[InputTensor, ...]
    """In the order of `Binding.inputs`, then of `Binding.optional_inputs`."""
    body_bytes: int
    """The body (payload after the header) has exactly this many bytes; 0 for a JSON request."""
    outputs: tuple[RequestedOutput, ...]
    """The reply's outputs, in its order."""
    run_outputs: tuple[str, ...] | None = None
    """The model's outputs that the worker must give; None: all."""
    id: str = ""
    fixed: bool = False
    """One item that fits a fixed slot; else it takes an arena."""
    copies: tuple[tuple[int, int, int], ...] = ()
    """(input index, offset in the body, bytes): what of the body goes into which fixed tensor."""
    literals: tuple[tuple[int, bytes], ...] = ()
    """(input index, bytes): inputs that came as JSON or from a picture."""
    check: bool = False
    """Call `Codec.check_body` once the body is there: BYTES lengths or BOOL values must be looked at."""
    image: bool = False
    """The body is a picture: `Codec.decode_image` (in a decode thread) makes the plan that can run."""
    classify: frozenset[str] = frozenset()
    """Which of `label` and `score` the reply holds as made from the classified output."""
    detect: DetectionPlan | None = None
    """Not None: the reply is made by `agent.dataplane.detections`."""
    placement: Placement | None = None
    """Where the picture lies in the input; None: no picture came, or it is not decoded yet."""
    magic: bool = False
    """Came in self-contained form (BINARY_MAGIC), or must be answered so."""
    response_topic: str = ""
    """Named in the payload (MQTT 3.1.1); the MQTT 5 property wins."""
    correlation_id: str = ""
    """Named in the payload (MQTT 3.1.1); echoed in the reply's parameters."""
    prefix: bytes = b""
    """The reply's bytes before its tensors, once made; for fixed slots only."""
    header_length: int | None = None
    """Of the reply that `prefix` begins."""

    def variant(self, request_id: str, *, magic: bool) -> RequestPlan:
        """The same request with another id or form of reply."""
        return replace(self, id=request_id, magic=magic, prefix=b"")

    def in_arena(self) -> RequestPlan:
        """The same request for an arena."""
        return replace(self, fixed=False, prefix=b"")

    def with_picture(self, tensor: InputTensor, placement: Placement, *, fixed: bool) -> RequestPlan:
        """The plan that runs once the picture is decoded: `tensor` (with data) is the one input."""
        return replace(
            self,
            tensors=(tensor,),
            image=False,
            placement=placement,
            check=False,
            fixed=fixed,
            body_bytes=0,
            copies=(),
            literals=((tensor.place, tensor.data or b""),),
        )
