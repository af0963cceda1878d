"""How much room requests to a variant and their answers take at least. Pure: publisher, registry and agent ask here.

What is published can be served: a variant whose smallest request no message carries is refused when it is published,
one that is over the limit of a device does not fit it, and a device makes room for all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from registry.contracts.catalogue.manifest import ImageInput, TensorSpec, Variant
from registry.contracts.tensors import ITEM_BYTES, MAX_BYTES_ELEMENTS, MAX_ELEMENTS, MAX_HEADER_BYTES

CODE = "request_too_large"
"""Of a refusal at publishing, a reason of the resolution, and a deployment that failed for it."""
MAX_MESSAGE_BYTES = 268_435_455
"""The longest MQTT packet (MQTT 5.0, 1.5.5)."""
MAX_TENSORS_BYTES = MAX_MESSAGE_BYTES - MAX_HEADER_BYTES - (4 << 10)
"""Of one message: its header, topic and properties take the rest."""
_DESCRIBED = 128
"""What a header says of one tensor, besides its name."""
MAX_HELD_BYTES = 512 << 20
"""Of one request, or of its answer, in the memory of a worker."""


def least_bytes(spec: TensorSpec) -> int:
    """Of the tensor's smallest form: a dimension of any size counts as 1. Of BYTES only the lengths."""
    return prod(max(dim, 1) if dim < 0 else dim for dim in spec.shape) * ITEM_BYTES.get(spec.datatype, 4)


def request_bytes(variant: Variant, *, pictures: bool = False) -> int:
    """What the smallest request brings, with its header. `pictures`: it may be one, which is small."""
    return 0 if pictures else sum(least_bytes(spec) + len(spec.name.encode()) + _DESCRIBED for spec in variant.inputs)


def held_bytes(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], image: ImageInput | None = None) -> int:
    """What a worker must hold at once: all inputs, a picture as the tensor that it becomes, or the smallest output."""
    return max(sum(_held(spec, image) for spec in inputs), min(map(least_bytes, outputs), default=0))


def room_faults(variant: Variant, image: ImageInput | None) -> Iterator[str]:
    """Why no device could be asked; nothing: one could."""
    for kind, specs in (("input", variant.inputs), ("output", variant.outputs)):
        for spec in specs:
            elements = prod(max(dim, 1) if dim < 0 else dim for dim in spec.shape)
            limit = MAX_ELEMENTS if spec.datatype in ITEM_BYTES else MAX_BYTES_ELEMENTS
            if elements > limit:
                yield f"{CODE}: {kind} {spec.name[:64]!r} has {elements} elements; {spec.datatype} has at most {limit}"
    sent = request_bytes(variant, pictures=image is not None)
    if sent > MAX_TENSORS_BYTES:
        yield f"{CODE}: its smallest request has {sent} bytes of tensors; a message carries {MAX_TENSORS_BYTES}"
    answered = min(map(least_bytes, variant.outputs), default=0)
    if answered > MAX_TENSORS_BYTES:
        yield f"{CODE}: its smallest output has {answered} bytes; a message carries {MAX_TENSORS_BYTES}"
    held = held_bytes(variant.inputs, variant.outputs, image)
    if held > MAX_HELD_BYTES:
        yield f"{CODE}: a request takes {held} bytes in memory; a device has at most {MAX_HELD_BYTES} for one"


def _held(spec: TensorSpec, image: ImageInput | None) -> int:
    if image is None or spec.name != image.input or spec.datatype not in ITEM_BYTES:
        return least_bytes(spec)
    channels = 1 if image.channels == "L" else 3
    return max(least_bytes(spec), channels * image.height * image.width * ITEM_BYTES[spec.datatype])
