"""The values that the codecs and the loop pass to each other: a checked request, its reply, and a refusal."""

from __future__ import annotations

from copy import copy
from typing import NamedTuple

import msgspec

from agent.errors import PermanentError
from registry.contracts.codes import InferenceCode

Buffer = bytes | bytearray | memoryview
MAX_MESSAGE = 500
"""Characters of an error message; client text in it is cut far before."""
MAX_QUOTE = 64


class RequestError(PermanentError):
    """A request is refused. `code` is an InferenceCode; the message says what was expected and what came.

    The last four say where and how to answer a request whose header could be read, as Plan does.
    """

    def __init__(self, code: InferenceCode, message: str) -> None:
        super().__init__(code, message[:MAX_MESSAGE])
        self.id = ""
        self.response_topic = ""
        self.correlation_id = ""


def quote(text: object) -> str:
    """What a client sent, safe to stand in a message: `repr`, cut to MAX_QUOTE characters."""
    if isinstance(text, str) and len(text) > MAX_QUOTE:
        return repr(text[:MAX_QUOTE]) + "…"
    shown = repr(text)
    return shown if len(shown) <= 2 * MAX_QUOTE else shown[: 2 * MAX_QUOTE] + "…"


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


class OutputTensor(NamedTuple):
    """One output of a run, as the worker wrote it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer


class OutputWish(NamedTuple):
    """One output as a reply carries it."""

    name: str
    binary: bool


class Plan(msgspec.Struct, gc=False):
    """A checked request: how its body becomes tensors, and how its reply is to look. Shared, so never changed
    after the codec handed it out (the cached reply prefix aside)."""

    tensors: tuple[InputTensor, ...]
    """In the order of `Binding.inputs`, then of `Binding.optional_inputs`."""
    body_bytes: int
    """The body (payload after the header) has exactly this many bytes; 0 for a JSON request."""
    outputs: tuple[OutputWish, ...]
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

    def variant(self, request_id: str, *, magic: bool) -> Plan:
        """The same request with another id or form of reply."""
        plan = copy(self)
        plan.id = request_id
        plan.magic = magic
        plan.prefix = b""
        return plan

    def in_arena(self) -> Plan:
        """The same request for an arena."""
        plan = copy(self)
        plan.fixed = False
        plan.prefix = b""
        return plan

    def with_picture(self, tensor: InputTensor, *, fixed: bool) -> Plan:
        """The plan that runs once the picture is decoded: `tensor` (with data) is the one input."""
        plan = copy(self)
        plan.tensors = (tensor,)
        plan.image = plan.check = False
        plan.fixed = fixed
        plan.body_bytes = 0
        plan.copies = ()
        plan.literals = ((tensor.place, tensor.data or b""),)
        return plan


class Reply(NamedTuple):
    """A payload in pieces (join or send them in order), and the properties that go with it."""

    pieces: tuple[Buffer, ...]
    header_length: int | None
    """Value of the user property HEADER_LENGTH_PROPERTY; None: leave it out."""
    content_type: str

    def join(self) -> bytes:
        """The payload in one piece."""
        return b"".join(self.pieces)
