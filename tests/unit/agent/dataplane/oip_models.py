"""Models for the codec's tests: an echo of one tensor, and how a worker would answer from what the plan says."""

from __future__ import annotations

from math import prod
from typing import Any

from agent.dataplane.oip.codec import Codec
from agent.dataplane.oip.plan import Binding, RequestPlan
from agent.worker.channel import make_layout
from registry.contracts.catalogue.manifest import TensorSpec
from registry.inference.packets import Buffer
from registry.inference.reply import OutputTensor, Reply

DIGEST = "sha256:" + "ab" * 32


def spec(name: str, datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec.model_validate({"name": name, "datatype": datatype, "shape": shape})


def make_codec(inputs: list[TensorSpec], outputs: list[TensorSpec], **binding: Any) -> Codec:
    layout = make_layout(inputs, outputs, slots=4, arenas=2, arena_bytes=1 << 16)
    values: dict[str, Any] = {
        "model": "m",
        "version": "3",
        "manifest_digest": DIGEST,
        "variant": "onnx-cpu",
        "variant_digest": DIGEST,
        "device": "edge-1",
        "format": "onnx",
        "inputs": tuple(inputs),
        "outputs": tuple(outputs),
        **binding,
    }
    return Codec(Binding(**values), layout)


def input_bytes(plan: RequestPlan, body: Buffer) -> list[bytes]:
    """The input tensors, in the model's order, by the rules that Plan states."""
    view = memoryview(body)
    return [bytes(t.data if t.data is not None else view[t.offset : t.offset + t.size]) for t in plan.tensors]


def slot_bytes(plan: RequestPlan, body: Buffer) -> dict[int, bytes]:
    """The same for a fixed slot, by `copies` and `literals`."""
    view = memoryview(body)
    filled = {place: bytes(view[offset : offset + size]) for place, offset, size in plan.copies}
    return filled | dict(plan.literals)


def echo(codec: Codec, payload: bytes, header_length: int | None = None, content_type: str = "") -> Reply:
    """Decodes, hands each input back as the output of the same place, encodes."""
    plan, start = codec.decode(payload, content_type, header_length)
    body = memoryview(payload)[start:]
    tensors = input_bytes(plan, body)
    if plan.fixed:
        slots = slot_bytes(plan, body)
        assert [slots[place] for place in range(len(tensors))] == tensors
        return codec.encode_fixed(plan, [memoryview(data) for data in tensors])
    specs = codec.binding.outputs
    outputs = [
        OutputTensor(out.name, str(out.datatype), tensor.shape, data)
        for out, tensor, data in zip(specs, plan.tensors, tensors, strict=True)
        if plan.run_outputs is None or out.name in plan.run_outputs
    ]
    return codec.encode_reply(plan, outputs)


def elements(shape: tuple[int, ...]) -> int:
    return prod(shape)
