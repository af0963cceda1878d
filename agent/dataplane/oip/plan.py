"""A checked request, as the codec and the loop pass it to each other."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec.structs import replace


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

    def with_picture(self, tensor: InputTensor, *, fixed: bool) -> RequestPlan:
        """The plan that runs once the picture is decoded: `tensor` (with data) is the one input."""
        return replace(
            self,
            tensors=(tensor,),
            image=False,
            check=False,
            fixed=fixed,
            body_bytes=0,
            copies=(),
            literals=((tensor.place, tensor.data or b""),),
        )
