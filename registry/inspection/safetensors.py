"""What a safetensors file says of itself: its parameters. A checkpoint in a form that needs no unpickling.

MindSpore writes it with save_checkpoint(..., format="safetensors"). `registry.contracts.tensor_file` reads the header;
8-bit and 4-bit floats, which MindSpore has not, are refused there.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from registry.contracts.catalogue.manifest import Format
from registry.contracts.tensor_file import WEIGHTS, TensorFileError, header_end, read_spans
from registry.inspection.checkpoint import MAX_PARAMETERS
from registry.inspection.facts import InspectionError, ModelFacts, Parameter


def looks_so(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins with `head` (at least 9 bytes) can be safetensors."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= max(WEIGHTS.header_bytes, size)


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
    head = file.read(8)
    try:
        head += file.read(header_end(head, size, WEIGHTS) - len(head))
        spans = read_spans(head, size, MAX_PARAMETERS, WEIGHTS)
    except TensorFileError as error:
        raise InspectionError(
            f"{name} is no sound safetensors file: {error}. Copy it again, or save it again"
        ) from None
    return tuple(Parameter(tag, span.datatype, span.shape, span.end - span.begin) for tag, span in spans.items())
