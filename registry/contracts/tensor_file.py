"""Tensors in a file: safetensors, read and written without pickle (https://github.com/huggingface/safetensors#format).

    u64 little-endian length of the header; the header, JSON: {name: {"dtype", "shape", "data_offsets": [begin, end]}};
    the tensors' bytes, little-endian and row-major, without holes

Pure: what is read are spans into bytes that the caller has, nothing is copied. Every count, size and offset is
checked, so that a span of a file that was read can be taken as it is. BYTES tensors have no form here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, TypeAlias

from registry.contracts.tensors import FLOAT8, ITEM_BYTES, MAX_ELEMENTS, MAX_RANK, Datatype

_ALIGNMENT = 8
_DTYPES = {
    "BOOL": Datatype.BOOL,
    "U8": Datatype.UINT8,
    "U16": Datatype.UINT16,
    "U32": Datatype.UINT32,
    "U64": Datatype.UINT64,
    "I8": Datatype.INT8,
    "I16": Datatype.INT16,
    "I32": Datatype.INT32,
    "I64": Datatype.INT64,
    "F16": Datatype.FP16,
    "F32": Datatype.FP32,
    "F64": Datatype.FP64,
    "BF16": Datatype.BF16,
    "F8_E4M3": Datatype.FP8E4M3FN,
    "F8_E4M3FNUZ": Datatype.FP8E4M3FNUZ,
    "F8_E5M2": Datatype.FP8E5M2,
    "F8_E5M2FNUZ": Datatype.FP8E5M2FNUZ,
    "F8_E8M0": Datatype.FP8E8M0,
}
_NAMES = {datatype: name for name, datatype in _DTYPES.items()}
Buffer: TypeAlias = bytes | bytearray | memoryview


class Bounds(NamedTuple):
    """What a file may have beside its number of tensors."""

    header_bytes: int
    """The longest header that is read."""
    rank: int
    """Dimensions of a tensor."""
    elements: int
    """Of a tensor."""
    float8: bool = False
    """8-bit floats may be in it."""


MESSAGES = Bounds(4 << 20, MAX_RANK, MAX_ELEMENTS, float8=True)
"""Of tensors that requests carry. The header: 8 Ki tensors with names of 256 characters."""
WEIGHTS = Bounds(16 << 20, 16, 1 << 50)
"""Of a checkpoint. The header: the reference implementation takes 100 MB; 100 000 parameters need a tenth of that."""


class TensorFileError(ValueError):
    """The file is not what it has to be. The message says where, and is made for people."""


class TensorSpan(NamedTuple):
    """One tensor of a file."""

    datatype: Datatype
    shape: tuple[int, ...]
    begin: int
    """Its first byte, from the start of the file."""
    end: int
    """After its last byte."""


class Tensor(NamedTuple):
    """One tensor with its bytes."""

    datatype: Datatype
    shape: tuple[int, ...]
    data: Buffer


def header_end(head: Buffer, size: int, bounds: Bounds = MESSAGES) -> int:
    """Where the header of a file of `size` bytes ends, that begins with `head` (its first 8 bytes are enough).

    Raises TensorFileError.
    """
    length = int.from_bytes(head[:8], "little")
    if size < 8 or len(head) < 8:
        raise TensorFileError("it is no safetensors file: it has not even 8 bytes")
    if length > bounds.header_bytes:
        raise TensorFileError(f"it says that its header has {length} bytes; at most {bounds.header_bytes} are read")
    if 8 + length > size:
        raise TensorFileError("it ends inside its header")
    return 8 + length


def read_spans(head: Buffer, size: int, max_tensors: int, bounds: Bounds = MESSAGES) -> dict[str, TensorSpan]:
    """The tensors of a file of `size` bytes, by name in the order of their bytes.

    `head`: at least the header; the whole file will do. Raises TensorFileError.
    """
    end = header_end(head, size, bounds)
    if len(head) < end:
        raise TensorFileError("it ends inside its header")
    try:
        header = json.loads(bytes(head[8:end]).decode("utf-8"), object_pairs_hook=_no_twins)
    except (ValueError, RecursionError) as error:
        raise TensorFileError(f"it is no safetensors file: its header: {str(error)[:200]}") from None
    if not isinstance(header, dict):
        raise TensorFileError("it is no safetensors file: its header is no JSON object")
    header.pop("__metadata__", None)
    if not 1 <= len(header) <= max_tensors:
        raise TensorFileError(f"it has {len(header)} tensors, 1 to {max_tensors} are allowed")
    spans = {name: _span(name, entry, end, bounds) for name, entry in header.items()}
    ordered = dict(sorted(spans.items(), key=lambda item: item[1][2:]))
    _check_gaps(ordered, end, size)
    return ordered


def write_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The file with these tensors, in that order. The same tensors give the same bytes.

    Raises TensorFileError for a tensor whose bytes are not what its shape and datatype say, or of BYTES.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in tensors.items():
        size = memoryview(tensor.data).nbytes
        if tensor.datatype not in _NAMES or size != prod(tensor.shape) * ITEM_BYTES[tensor.datatype]:
            raise TensorFileError(f"tensor {name!r} cannot be written: {size} bytes of {tensor.datatype}")
        span = [offset, offset + size]
        header[name] = {"dtype": _NAMES[tensor.datatype], "shape": list(tensor.shape), "data_offsets": span}
        offset += size
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-(8 + len(raw)) % _ALIGNMENT)
    body = b"".join(bytes(tensor.data) for tensor in tensors.values())
    return len(raw).to_bytes(8, "little") + raw + body


def shape_fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    """The rank agrees, and so does every dimension that is declared fixed."""
    return len(shape) == len(declared) and all(want in (-1, have) for have, want in zip(shape, declared, strict=True))


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    "".join(found).encode()  # half of a surrogate pair, which JSON can say and no message can carry: a ValueError
    return found


def _span(name: str, entry: Any, start: int, bounds: Bounds) -> TensorSpan:
    who = f"tensor {name[:256]!r}"
    if not isinstance(entry, dict):
        raise TensorFileError(f"{who} is not described by a JSON object")
    datatype = _DTYPES.get(str(entry.get("dtype")))
    shape, offsets = _naturals(entry.get("shape")), _naturals(entry.get("data_offsets"))
    if datatype is None or (datatype in FLOAT8 and not bounds.float8):
        raise TensorFileError(f"{who} has the type {str(entry.get('dtype'))[:64]!r}, which is not one of ours")
    if shape is None or len(shape) > bounds.rank or prod(shape) > bounds.elements:
        raise TensorFileError(f"{who} has an impossible shape")
    if offsets is None or len(offsets) != 2:
        raise TensorFileError(f"{who} has impossible data_offsets")
    size = prod(shape) * ITEM_BYTES[datatype]
    if offsets[1] - offsets[0] != size:
        raise TensorFileError(f"{who} has {offsets[1] - offsets[0]} bytes, but {shape} of {datatype} are {size}")
    return TensorSpan(datatype, tuple(shape), start + offsets[0], start + offsets[1])


def _naturals(value: Any) -> list[int] | None:
    """The value, if it is a list of numbers from 0 to 2^50."""
    fits = isinstance(value, list) and all(type(item) is int and 0 <= item <= 1 << 50 for item in value)
    return value if fits else None


def _check_gaps(spans: Mapping[str, TensorSpan], start: int, size: int) -> None:
    at = start
    for name, span in spans.items():
        if span.begin != at:
            raise TensorFileError(f"tensor {name[:256]!r} overlaps another, or leaves a hole")
        at = span.end
    if at > size:
        raise TensorFileError(f"it is cut short: it has {size} bytes, its tensors end at {at}")
    if at < size:
        raise TensorFileError(f"it has {size - at} bytes that belong to no tensor")
