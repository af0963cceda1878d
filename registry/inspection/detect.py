"""Which format a file has, by its content; its name counts for nothing.

ONNX, MindIR and MindSpore checkpoints are all protobuf and are told apart by their outermost fields:
ONNX has a number in field 1 and a graph in field 7; MindIR a version text in field 1 and its producer
in field 2; a checkpoint only tensors in field 1; AIR graphs of Graph Engine in field 7. OM starts with a
256-byte header `IMOD`, safetensors with the length of a JSON header; it is a form of checkpoint here.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from registry.contracts.manifest import Format
from registry.inspection import air, checkpoint, plan, protobuf, safetensors
from registry.inspection.facts import InspectionError

OM_MAGIC = b"IMOD\x00\x01\x00\x00"
"""Magic 0x444F4D49 and the header's length, 256, both little-endian."""
STORED = ", ".join(Format)

_PICKLE = "a Python pickle, which runs code when it is read; export the model to ONNX"
_PICKLES = (
    *(b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
    *(b"(dp0\n", b"(lp0\n", b"ccopy_reg\n", b"}q\x00", b"]q\x00"),  # protocols 0 and 1 say no number
)
_STRANGERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive, as PyTorch writes it; export the model to ONNX (torch.onnx.export)"),
    *((0, magic, _PICKLE) for magic in _PICKLES),
    (4, b"TFL3", "a TensorFlow Lite model; convert it to ONNX (tf2onnx)"),
    (0, b"\x89HDF\r\n", "an HDF5 file, as Keras writes it; convert it to ONNX (tf2onnx)"),
    (0, b"\x1f\x8b", "gzip-compressed; unpack it first"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the model itself; run `git lfs pull`"),
    (0, b"<", "text that looks like a web page: the download probably failed"),
)


def detect(path: Path) -> Format | None:
    """The format of a file, or None when nothing about it is certain (some TensorRT plans; AIR of a form not known).

    Raises:
        InspectionError: it is empty, cut short, or surely something that the registry does not store.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        if size == 0:
            raise InspectionError(f"{path.name} is empty")
        head = file.read(64)
        if safetensors.looks_so(head, size):  # first: its length may look like a stranger's magic
            return Format.MINDSPORE_CKPT
        for offset, magic, what in _STRANGERS:
            if head[offset : offset + len(magic)] == magic:
                raise InspectionError(f"{path.name} is {what}. The registry stores: {STORED}")
        if head.startswith(OM_MAGIC):
            return Format.OM
        if head.startswith(plan.MAGIC):
            return Format.TENSORRT_PLAN
        return _protobuf_format(file, size, path.name)


def _protobuf_format(file: BinaryIO, size: int, name: str) -> Format | None:
    seen: list[protobuf.Field] = []
    try:
        seen.extend(protobuf.outer_fields(file, checkpoint.payload_bytes(file, size)))
    except protobuf.TruncatedError as error:
        cut = _by_fields(seen)
        if cut is not None:
            raise InspectionError(
                f"{name} is a file of format {cut} that is cut short: {error}. Copy it again"
            ) from error
        return None
    except protobuf.NotProtobufError:
        return None
    return _by_fields(seen) or (Format.AIR if air.operators(file, size) else None)


def _by_fields(seen: list[protobuf.Field]) -> Format | None:
    """A file that is cut short has only the first of its fields."""
    if _looks_like_onnx(seen):
        return Format.ONNX
    if any(field.number == 2 and field.head.startswith(b"MindSpore") for field in seen):
        return Format.MINDIR
    numbers = {field.number for field in seen}
    kinds = {field.wire_type for field in seen}
    if numbers == {1} and kinds == {protobuf.LENGTH_DELIMITED} and all(f.head.startswith(b"\n") for f in seen):
        return Format.MINDSPORE_CKPT
    return None


def _looks_like_onnx(seen: list[protobuf.Field]) -> bool:
    """A plausible IR version; a file cut inside its graph has no field 7 yet."""
    return any(f.number == 1 and f.wire_type == protobuf.VARINT and 1 <= f.length <= 1000 for f in seen)
