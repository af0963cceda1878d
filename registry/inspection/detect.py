"""Which format a file has, by its content; its name counts for nothing.

ONNX, MindIR and MindSpore checkpoints are all protobuf and are distinguished by their outermost fields:
ONNX has a number in field 1 and a graph in field 7; MindIR a version text in field 1 and its producer
in field 2; a checkpoint only tensors in field 1; AIR graphs of Graph Engine in field 7. OM starts with a
256-byte header `IMOD`, safetensors with the length of a JSON header; it is a form of checkpoint here.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from registry.contracts.catalogue.manifest import Format
from registry.inspection import air, checkpoint, plan, protobuf
from registry.inspection.facts import InspectionError
from registry.inspection.foreign_formats import HEAD_BYTES, foreign_format, other_model

OM_MAGIC = b"IMOD\x00\x01\x00\x00"
"""Magic 0x444F4D49 and the header's length, 256, both little-endian."""
STORED = ", ".join(Format)


def detect(path: Path) -> Format | None:
    """The format of a file, or None when nothing about it is certain (some TensorRT plans; AIR of a form not known).

    Raises:
        InspectionError: it is empty, cut short, or surely something that the registry does not store.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        if size == 0:
            raise InspectionError(f"{path.name} is empty")
        head = file.read(HEAD_BYTES)
        if checkpoint.looks_like_safetensors(head, size):  # first: its length may look like another format's magic
            return Format.MINDSPORE_CKPT
        what = foreign_format(path, head)
        if what is not None:
            raise InspectionError(f"{path.name} is {what}. The registry stores: {STORED}")
        if head.startswith(OM_MAGIC):
            return Format.OM
        if head.startswith(plan.MAGIC):
            return Format.TENSORRT_PLAN
        return _protobuf_format(file, size, path.name)


def _protobuf_format(file: BinaryIO, size: int, name: str) -> Format | None:
    seen: list[protobuf.Field] = []
    cut: protobuf.TruncatedError | None = None
    try:
        seen.extend(protobuf.outer_fields(file, checkpoint.payload_bytes(file, size)))
    except protobuf.TruncatedError as error:
        cut = error
    except protobuf.NotProtobufError:
        return None
    what, found = other_model(seen), _by_fields(seen)
    if what is not None:
        also = ", and it is cut short" if cut else ""
        raise InspectionError(f"{name} is {what}{also}. The registry stores: {STORED}") from None
    if cut and found is not None:
        raise InspectionError(f"{name} is a file of format {found} that is cut short: {cut}. Copy it again") from cut
    if found is None and not cut and air.operators(file, size):
        return Format.AIR
    return found


def _by_fields(seen: list[protobuf.Field]) -> Format | None:
    """A file that is cut short has only the first of its fields."""
    # A plausible IR version; a file that is cut inside its graph has no field 7 yet.
    if any(f.number == 1 and f.wire_type == protobuf.VARINT and 1 <= f.length <= 1000 for f in seen):
        return Format.ONNX
    if any(field.number == 2 and field.head.startswith(b"MindSpore") for field in seen):
        return Format.MINDIR
    numbers = {field.number for field in seen}
    kinds = {field.wire_type for field in seen}
    if numbers == {1} and kinds == {protobuf.LENGTH_DELIMITED} and all(f.head.startswith(b"\n") for f in seen):
        return Format.MINDSPORE_CKPT
    return None
