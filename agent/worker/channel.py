"""Where everything lies in the memory that agent and worker share.

One memory segment per worker, mapped by both sides, without a name. Regions, each aligned to 64 bytes:

    inputs    per fixed tensor X[slots][item_bytes]: slots that follow each other are a batch without a copy
    outputs   per fixed tensor Y[slots][item_bytes]
    arenas    [arenas][arena_bytes]: any request that is not one fixed item
    status    u32 per slot id: 0 is done well, OTHER_FORM, else an index into ERROR_CODES
    errors    512 bytes of UTF-8 per slot id, ended by NUL

Slot ids: 0..slots-1 are fixed slots, slots..slots+arenas-1 are arenas. The doorbell sockets carry them as u32
little-endian, many per send, both ways.

An arena holds any tensors, described by themselves:

    u32 little-endian length of the metadata
    metadata: {"tensors": [{"name", "datatype", "shape", "offset", "size"}], "outputs": [names] or null}
    the tensors' bytes, each at its offset from the start of the arena, aligned to 64

The request is written by the agent, the reply by the worker over it, in the same form. Neither side trusts the
other: `read_arena` checks every number it meets.
Standard library only, Python 3.9 syntax: the worker's interpreter may be a vendor's.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, NamedTuple, Protocol, Union

ALIGNMENT = 64
ERROR_BYTES = 512
"""Bytes of error text per slot id."""
ERROR_CODES = (
    "",
    "run_failed",
    "result_too_large",
    "bad_payload",
    "wrong_shape",
    "wrong_datatype",
    "size_mismatch",
    "unknown_input",
    "missing_input",
    "unknown_output",
    "overloaded",
    "model_not_ready",
    "out_of_memory",
)
"""What a status names; each is an InferenceCode of registry.contracts.codes. Append only."""

OTHER_FORM = 0xFFFF_FFFF
"""The status of a fixed slot whose answer has another shape than the slot has room for: it must be run again in an
arena. Its inputs are as they were."""
ITEM_BYTES = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "FP32": 4,
    "FP64": 8,
    "BF16": 2,
    "FP8E4M3FN": 1,
    "FP8E4M3FNUZ": 1,
    "FP8E5M2": 1,
    "FP8E5M2FNUZ": 1,
    "FP8E8M0": 1,
}
"""Bytes per element; registry.contracts.tensors.ITEM_BYTES with plain names. BYTES has no fixed size."""

MAX_FIXED_BYTES = 256 << 20
"""The fixed regions never take more; fewer slots then."""
FIXED_BYTES = 32 << 20
"""Beyond FEW_SLOTS the fixed regions do not grow over this: slots are used in turn, so all of it becomes resident."""
FEW_SLOTS = 16


class TensorLike(Protocol):
    """What a layout must know of a tensor: TensorInfo and registry's TensorSpec both do. A dimension -1 is any size."""

    @property
    def name(self) -> str:
        """As requests name it."""

    @property
    def datatype(self) -> str:
        """Of the Open Inference Protocol."""

    @property
    def shape(self) -> Sequence[int]:
        """With the batch dimension, if there is one."""


def fixed_form(*sides: Sequence[Any]) -> bool:
    """False: one of these TensorSpecs has no declared shape, so no tensor can have a place of its own."""
    return not any(tensor.any_rank for side in sides for tensor in side)


@dataclass(frozen=True)
class FixedTensor:
    """A tensor with a place of its own in every fixed slot."""

    name: str
    datatype: str
    item_shape: tuple[int, ...]
    """Of one slot: without the leading batch dimension when the layout is batchable, the whole shape otherwise."""
    item_bytes: int
    offset: int
    """Bytes from the start of the memory to slot 0; slot i follows at i * item_bytes, without padding."""


@dataclass(frozen=True)
class Layout:
    """Where everything lies in one worker's memory. Offsets and sizes are bytes."""

    slots: int
    """Fixed slots; 0 when the model has a BYTES tensor or a dynamic dimension besides a leading one."""
    batchable: bool
    """Every tensor has a leading dynamic dimension: neighbouring slots may run as one batch."""
    inputs: tuple[FixedTensor, ...]
    outputs: tuple[FixedTensor, ...]
    arenas: int
    arena_bytes: int
    arena_offset: int
    status_offset: int
    error_offset: int
    total: int

    @property
    def ids(self) -> int:
        """How many slot ids there are: ids are 0..ids-1."""
        return self.slots + self.arenas

    def request_shape(self, tensor: FixedTensor) -> tuple[int, ...]:
        """The shape that a request or reply of one fixed slot has on the wire."""
        return (1, *tensor.item_shape) if self.batchable else tensor.item_shape

    def slot_view(self, memory: memoryview, tensor: FixedTensor, slot: int) -> memoryview:
        """The bytes of `tensor` in a fixed slot."""
        start = tensor.offset + slot * tensor.item_bytes
        return memory[start : start + tensor.item_bytes]

    def arena_view(self, memory: memoryview, slot_id: int) -> memoryview:
        """The bytes of the arena that `slot_id` (slots <= slot_id < ids) names."""
        start = self.arena_offset + (slot_id - self.slots) * self.arena_bytes
        return memory[start : start + self.arena_bytes]

    def statuses(self, memory: memoryview) -> memoryview:
        """One u32 per slot id, to read and write in place."""
        return memory[self.status_offset : self.status_offset + 4 * self.ids].cast("B").cast("I")

    def set_error(self, memory: memoryview, slot_id: int, code: str, text: str) -> None:
        """Says why `slot_id` failed; a code that is not in ERROR_CODES becomes run_failed, the text is cut."""
        raw = text.replace("\0", " ").encode("utf-8", "replace")[: ERROR_BYTES - 1]
        start = self.error_offset + slot_id * ERROR_BYTES
        memory[start : start + len(raw) + 1] = raw + b"\0"
        index = ERROR_CODES.index(code) if code in ERROR_CODES[1:] else 1
        struct.pack_into("<I", memory, self.status_offset + 4 * slot_id, index)

    def error(self, memory: memoryview, slot_id: int) -> tuple[str, str]:
        """(code, text) of a slot id whose status is not 0. Whatever stands there, both come out printable."""
        (index,) = struct.unpack_from("<I", memory, self.status_offset + 4 * slot_id)
        code = ERROR_CODES[index] if 0 < index < len(ERROR_CODES) else ERROR_CODES[1]
        start = self.error_offset + slot_id * ERROR_BYTES
        raw = bytes(memory[start : start + ERROR_BYTES]).split(b"\0", 1)[0]
        text = raw.decode("utf-8", "ignore")
        return code, "".join(char if char.isprintable() else " " for char in text)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `layout_from_json` reads."""
        return asdict(self)


def layout_from_json(document: dict[str, Any]) -> Layout:
    """The layout that `Layout.to_json` wrote. For the worker, which trusts the agent."""
    tensors = {
        side: tuple(FixedTensor(**{**entry, "item_shape": tuple(entry["item_shape"])}) for entry in document[side])
        for side in ("inputs", "outputs")
    }
    return Layout(**{**document, **tensors})


def make_layout(
    inputs: Sequence[TensorLike],
    outputs: Sequence[TensorLike],
    *,
    slots: int,
    arenas: int,
    arena_bytes: int,
    fixed: bool = True,
) -> Layout:
    """Lays out the memory of a model with that signature.

    `slots`: at most as many fixed slots (at least 1; fewer when items are large, none when the signature has
    no fixed form). `arena_bytes`: of each arena, rounded up to 64. `fixed`: False when the model's
    outputs are known to come in other shapes than it declares: no fixed slots then.
    """
    if slots < 1 or arenas < 1 or arena_bytes < 4096:
        raise ValueError("a layout needs at least one slot, one arena and 4096 bytes per arena")
    batchable = _batchable(inputs, outputs)
    items = [_item_shape(tensor, batchable) for tensor in (*inputs, *outputs)]
    sizes = [
        prod(shape) * ITEM_BYTES[str(tensor.datatype)] if shape is not None else 0
        for tensor, shape in zip((*inputs, *outputs), items)
    ]
    fixed = fixed and bool(inputs) and bool(outputs) and all(sizes) and sum(sizes) <= MAX_FIXED_BYTES
    per_slot = sum(sizes)
    slots = min(slots, max(FEW_SLOTS, FIXED_BYTES // per_slot), MAX_FIXED_BYTES // per_slot) if fixed else 0
    offset = 0
    placed: list[FixedTensor] = []
    for tensor, shape, size in zip((*inputs, *outputs), items, sizes):
        if fixed and shape is not None:
            placed.append(FixedTensor(tensor.name, str(tensor.datatype), shape, size, offset))
            offset = aligned(offset + slots * size)
    arena_bytes = aligned(arena_bytes)
    status_offset = aligned(offset + arenas * arena_bytes)
    error_offset = aligned(status_offset + 4 * (slots + arenas))
    return Layout(
        slots=slots,
        batchable=fixed and batchable,
        inputs=tuple(placed[: len(inputs)]),
        outputs=tuple(placed[len(inputs) :]),
        arenas=arenas,
        arena_bytes=arena_bytes,
        arena_offset=offset,
        status_offset=status_offset,
        error_offset=error_offset,
        total=error_offset + ERROR_BYTES * (slots + arenas),
    )


def _batchable(inputs: Sequence[TensorLike], outputs: Sequence[TensorLike]) -> bool:
    return all(len(tensor.shape) > 0 and tensor.shape[0] == -1 for tensor in (*inputs, *outputs))


def _item_shape(tensor: TensorLike, batchable: bool) -> tuple[int, ...] | None:
    """Of one fixed slot; None when it has none. A lone leading -1 among fixed siblings stands for 1."""
    if str(tensor.datatype) not in ITEM_BYTES:
        return None
    shape = tuple(tensor.shape)
    if shape and shape[0] == -1:
        shape = shape[1:] if batchable else (1, *shape[1:])
    return None if -1 in shape else shape


def aligned(offset: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


MAX_TENSORS = 1024
"""Inputs or outputs; registry.contracts.tensors has the same."""
MAX_RANK = 8
MAX_ELEMENTS = 1 << 31
MAX_NAME = 4096
"""Characters of a tensor name; registry.contracts.tensors has the same."""
MAX_META_BYTES = 512 << 10
"""The longest metadata of an arena: the names of all inputs and of all wanted outputs (48 KiB each at most), and up to
300 bytes of numbers for each tensor."""
Buffer = Union[bytes, bytearray, memoryview]


class ArenaError(ValueError):
    """An arena holds something that its form does not allow."""


class ArenaFullError(ArenaError):
    """The tensors do not fit into the arena."""


class ArenaTensor(NamedTuple):
    """One tensor of an arena. BYTES data is the Open Inference Protocol's: (u32 little-endian length, bytes) each."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer


class ArenaContent(NamedTuple):
    """What an arena holds. `outputs`: which outputs are wanted; None: all."""

    tensors: tuple[ArenaTensor, ...]
    outputs: tuple[str, ...] | None


def lay_arena(
    view: memoryview, tensors: Sequence[tuple[str, str, Sequence[int], int]], outputs: Sequence[str] | None = None
) -> list[int]:
    """Writes the metadata for (name, datatype, shape, size in bytes) each; returns where each tensor's bytes belong.

    The offsets count from the start of `view`. Raises ArenaFullError.
    """
    # The offsets stand in the metadata whose length they depend on: leave room for the longest there can be.
    sample = [
        {"name": name, "datatype": datatype, "shape": list(shape), "offset": len(view), "size": size}
        for name, datatype, shape, size in tensors
    ]
    wanted = None if outputs is None else list(outputs)
    room = len(_encoded(sample, wanted))
    if room > MAX_META_BYTES:
        raise ArenaFullError(f"the tensors' metadata takes {room} bytes, over the limit of {MAX_META_BYTES}")
    offset = aligned(4 + room)
    offsets = []
    for entry, (_, _, _, size) in zip(sample, tensors):
        offsets.append(offset)
        entry["offset"] = offset
        offset = aligned(offset + size)
    end = max((at + size for at, (_, _, _, size) in zip(offsets, tensors)), default=4 + room)
    if end > len(view):
        raise ArenaFullError(f"the tensors take {end} bytes, the arena has {len(view)}")
    meta = _encoded(sample, wanted)
    struct.pack_into("<I", view, 0, len(meta))
    view[4 : 4 + len(meta)] = meta
    return offsets


def _encoded(tensors: Sequence[dict[str, Any]], outputs: Sequence[str] | None) -> bytes:
    return json.dumps({"tensors": tensors, "outputs": outputs}, ensure_ascii=False).encode()


def write_arena(view: memoryview, tensors: Iterable[ArenaTensor], outputs: Sequence[str] | None = None) -> None:
    """Writes the tensors with their bytes (any contiguous buffer). Raises ArenaFullError."""
    flat = [(tensor, memoryview(tensor.data).cast("B")) for tensor in tensors]
    plan = [(tensor.name, tensor.datatype, tensor.shape, len(data)) for tensor, data in flat]
    for offset, (_, data) in zip(lay_arena(view, plan, outputs), flat):
        view[offset : offset + len(data)] = data


def read_arena(view: memoryview) -> ArenaContent:
    """What the other side wrote; the tensors' data are views into `view`, nothing is copied.

    Every count, bound, type and size is checked; the inner lengths of BYTES are not: `split_bytes` checks those.
    Raises ArenaError.
    """
    (length,) = struct.unpack_from("<I", view, 0)
    if length > min(MAX_META_BYTES, len(view) - 4):
        raise ArenaError(f"the metadata's length {length} is out of bounds")
    try:
        # A copy first: the other side could change the bytes between check and use.
        meta = json.loads(bytes(view[4 : 4 + length]))
        entries, outputs = meta["tensors"], meta["outputs"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArenaError(f"the metadata is not what an arena has: {error}") from None
    if type(entries) is not list or len(entries) > MAX_TENSORS:
        raise ArenaError(f"the metadata lists no tensors, or more than {MAX_TENSORS}")
    return ArenaContent(tuple(_read_tensor(view, entry, 4 + length) for entry in entries), _read_outputs(outputs))


def _read_outputs(outputs: object) -> tuple[str, ...] | None:
    if outputs is None:
        return None
    if type(outputs) is not list or len(outputs) > MAX_TENSORS or not all(_is_name(name) for name in outputs):
        raise ArenaError("the wanted outputs are not a list of tensor names")
    return tuple(outputs)


def _is_name(name: object) -> bool:
    return type(name) is str and 0 < len(name) <= MAX_NAME


def _read_tensor(view: memoryview, entry: object, start: int) -> ArenaTensor:
    if type(entry) is not dict:
        raise ArenaError("a tensor's metadata is not an object")
    name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
    offset, size = entry.get("offset"), entry.get("size")
    if not _is_name(name) or type(datatype) is not str or (datatype not in ITEM_BYTES and datatype != "BYTES"):
        raise ArenaError("a tensor has no proper name or datatype")
    if (
        type(shape) is not list
        or len(shape) > MAX_RANK
        or not all(type(dim) is int and 0 <= dim <= MAX_ELEMENTS for dim in shape)
        or prod(shape) > MAX_ELEMENTS
    ):
        raise ArenaError(f"tensor {name!r} has a shape out of bounds")
    if type(offset) is not int or type(size) is not int or size < 0 or not start <= offset <= len(view) - size:
        raise ArenaError(f"tensor {name!r} lies out of bounds")
    count = prod(shape)
    if size < 4 * count if datatype == "BYTES" else size != count * ITEM_BYTES[datatype]:
        raise ArenaError(f"tensor {name!r} has {size} bytes, which is not what its shape and datatype say")
    return ArenaTensor(str(name), datatype, tuple(shape), view[offset : offset + size])


def split_bytes(data: Buffer, count: int) -> list[bytes]:
    """The `count` elements of a BYTES tensor. Raises ArenaError when the lengths do not add up to all of `data`."""
    raw = bytes(data)
    elements = []
    position = 0
    for _ in range(count):
        if position + 4 > len(raw):
            raise ArenaError("a BYTES tensor ends before its last element")
        (length,) = struct.unpack_from("<I", raw, position)
        position += 4
        if length > len(raw) - position:
            raise ArenaError("a BYTES element is longer than its tensor")
        elements.append(raw[position : position + length])
        position += length
    if position != len(raw):
        raise ArenaError("a BYTES tensor has bytes after its last element")
    return elements


def join_bytes(elements: Iterable[bytes]) -> bytes:
    """The BYTES tensor with these elements."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
