"""What a safetensors file says of itself: its parameters. A checkpoint in a form that needs no unpickling.

Layout (https://huggingface.co/docs/safetensors): u64 little-endian length of the header, the header in
JSON, then the tensors without holes. MindSpore writes it with save_checkpoint(..., format="safetensors").
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, BinaryIO

from registry.contracts.manifest import Format
from registry.inspection.facts import InspectionError, ModelFacts, Parameter

MAX_HEADER_BYTES = 16 << 20
"""The reference implementation takes 100 MB; 100 000 parameters need a tenth of that."""
MAX_RANK = 16
_ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
"""The types that MindSpore has too; 8-bit and 4-bit floats are not among them."""


def looks_so(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins with `head` (at least 9 bytes) can be safetensors."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= max(MAX_HEADER_BYTES, size)


def inspect(path: Path) -> ModelFacts:
    """Read the header of the safetensors file at `path`.

    Raises:
        InspectionError: it is no safetensors file, cut short, or disagrees with itself.
    """
    if path.suffix != ".safetensors":
        raise InspectionError(
            f"{path.name} is a safetensors file by its content, but MindSpore reads files of this name in its own "
            "form. Call it .safetensors"
        )
    with path.open("rb") as file:
        parameters = read(file, path.stat().st_size, path.name)
    return ModelFacts(format=Format.MINDSPORE_CKPT, parameters=parameters)


def read(file: BinaryIO, size: int, name: str) -> tuple[Parameter, ...]:
    """The parameters of an open file of `size` bytes, in the order of their bytes; `name` is for the messages.

    Raises:
        InspectionError: as `inspect` does.
    """
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise InspectionError(f"{name} says that its header has {length} bytes; at most {MAX_HEADER_BYTES} are read")
    if size < 8 or 8 + length > size:
        raise InspectionError(f"{name} is a safetensors file that ends inside its header. Copy it again")
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_no_twins)
    except (ValueError, RecursionError) as error:
        raise InspectionError(f"{name} is not a safetensors file: its header: {str(error)[:200]}") from error
    if not isinstance(header, dict):
        raise InspectionError(f"{name} is not a safetensors file: its header is no JSON object")
    header.pop("__metadata__", None)
    spans = sorted((_parameter(name, tag, entry) for tag, entry in header.items()), key=lambda span: span[:2])
    if not spans:
        raise InspectionError(f"{name} has no parameters")
    _check_spans(name, spans, size - 8 - length)
    return tuple(parameter for _, _, parameter in spans)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _parameter(name: str, tag: str, entry: Any) -> tuple[int, int, Parameter]:
    """Where one tensor's bytes begin and end after the header, and what it is."""
    who = f"{name}: parameter {tag[:256]!r}"
    if not isinstance(entry, dict):
        raise InspectionError(f"{who} is not described by a JSON object")
    datatype, shape, span = entry.get("dtype"), _naturals(entry.get("shape")), _naturals(entry.get("data_offsets"))
    if not isinstance(datatype, str) or datatype not in _ITEM_BYTES:
        raise InspectionError(f"{who} has the type {str(datatype)[:64]!r}, which MindSpore does not load")
    if shape is None or len(shape) > MAX_RANK:
        raise InspectionError(f"{who} has an impossible shape")
    if span is None or len(span) != 2:
        raise InspectionError(f"{who} has impossible data_offsets")
    size = math.prod(shape) * _ITEM_BYTES[datatype]
    if span[1] - span[0] != size:
        raise InspectionError(f"{who} has {span[1] - span[0]} bytes, but {shape} of {datatype} are {size}")
    return span[0], span[1], Parameter(tag, datatype, tuple(shape), size)


def _naturals(value: Any) -> list[int] | None:
    """The value, if it is a list of numbers from 0 to 2^50."""
    fits = isinstance(value, list) and all(type(item) is int and 0 <= item <= 1 << 50 for item in value)
    return value if fits else None


def _check_spans(name: str, spans: list[tuple[int, int, Parameter]], available: int) -> None:
    at = 0
    for begin, end, parameter in spans:
        if begin != at:
            raise InspectionError(f"{name}: parameter {parameter.name[:256]!r} overlaps another, or leaves a hole")
        at = end
    if at > available:
        raise InspectionError(f"{name} is cut short: its parameters have {at} bytes, it has {available}. Copy it again")
    if at < available:
        raise InspectionError(f"{name} has {available - at} bytes that belong to no parameter")
