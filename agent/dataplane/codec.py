"""Requests to plans, outputs to replies: the Open Inference Protocol (KServe v2) for one active worker.

Forms of a request, told apart in this order:
1. header length given (MQTT 5 user property): JSON header, then binary tensors;
2. payload begins with BINARY_MAGIC: the same, self-contained, for MQTT 3.1.1;
3. content type image/jpeg or image/png, or a payload that begins as one: a picture;
4. else JSON.

Output form is the protocol's: JSON, unless `binary_data_output` (all) or `binary_data` (one output, wins) asks.
Pure: no I/O, no threads. `decode_image` may run in another thread, everything else in one.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.dataplane.binding import Binding
from agent.dataplane.classify import Classifier
from agent.dataplane.codec_binary import HeaderDecoder, split_magic
from agent.dataplane.codec_json import decode_request
from agent.dataplane.images import ImageDecoder, sniff
from agent.dataplane.plan import Buffer, OutputTensor, Plan, Reply, RequestError, quote
from agent.dataplane.replies import ReplyEncoder
from agent.dataplane.signature import LayoutFacts, Signature, check_body
from registry.contracts.codes import InferenceCode
from registry.contracts.tensors import BINARY_MAGIC, CONTENT_IMAGES


class Codec:
    """Compiled once per active worker. Every refusal is a RequestError."""

    def __init__(self, binding: Binding, layout: LayoutFacts) -> None:
        self.binding = binding

    def decode(self, payload: Buffer, content_type: str = "", header_length: int | None = None) -> tuple[Plan, int]:
        """Any request: the plan, and where its body begins in the payload. Sizes are checked; `check_body` is done."""

    def decode_header(self, header: bytes) -> Plan:
        """The JSON header of a binary request, without its body: what the fast path calls.

        The caller must compare `plan.body_bytes` with what came, and call `check_body` when `plan.check`.
        A repeated header costs one dict look-up.
        """

    def decode_json(self, payload: Buffer) -> Plan:
        """A whole request in JSON; its tensors are in `plan.tensors[i].data` and `plan.literals`."""

    def check_body(self, plan: Plan, body: Buffer) -> None:
        """Refuses a body of the wrong size, BYTES whose lengths do not add up, BOOL other than 0 and 1."""

    def image_plan(self, content_type: str = "") -> Plan:
        """The plan of a payload that is a picture (`plan.image`); refuses when the model takes none."""

    def decode_image(self, plan: Plan, body: Buffer) -> Plan:
        """Decodes and prepares the picture of a plan with `image`; the plan that comes back can run. Milliseconds."""

    def encode_fixed(self, plan: Plan, views: Sequence[Buffer]) -> Reply:
        """The reply from a fixed slot: one view per model output, in `Layout.outputs` order. No copy when binary."""

    def encode_reply(self, plan: Plan, outputs: Sequence[OutputTensor]) -> Reply:
        """The reply from an arena: outputs by name, any shape."""

    def encode_error(self, code: str, message: str, request_id: str = "", correlation_id: str = "") -> Reply:
        """An error result that says which model, version, variant and device; always bare JSON."""
