"""An arena: any tensors, described by themselves, in a piece of the memory that agent and worker share.

    u32 little-endian length of the metadata
    metadata: {"tensors": [{"name", "datatype", "shape", "offset", "size"}], "outputs": [names] or null}
    the tensors' bytes, each at its offset from the start of the arena, aligned to 64

The request is written by the agent, the reply by the worker over it, in the same form. Neither side trusts the
other: `read_arena` checks every number it meets. Standard library only, Python 3.9 syntax.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, NamedTuple, Union

from agent.worker.channel import ITEM_BYTES, aligned

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
