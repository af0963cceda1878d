"""What a MindSpore checkpoint says of itself: its parameters. Nothing is unpickled, no weight is read.

The file is protobuf (checkpoint.proto of MindSpore 2.10, in its wheel as mindspore.train.checkpoint_pb2):
one entry per parameter, or, over 512 KiB, several after each other with the same tag. With `crc_check`
MindSpore puts `crc_num` and ten bytes behind it: the CRC-32 of all before. A checkpoint saved with a key
is encrypted and cannot be told from noise.

The other form is safetensors, which save_checkpoint(..., format="safetensors") writes. `registry.contracts.tensor_file`
reads the header; 8-bit and 4-bit floats, which MindSpore has not, are refused there.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import BinaryIO

from registry.contracts.catalogue import networks
from registry.contracts.catalogue.manifest import Format, Network
from registry.contracts.tensor_file import WEIGHTS, TensorFileError, header_end, read_spans
from registry.inspection.facts import InspectionError, ModelFacts, Parameter
from registry.inspection.protobuf import Field, ProtobufWalk, TruncatedError
from registry.mindspore_networks.table import mismatches

MAX_PARAMETERS = 100_000
MAX_RANK = 16
"""Dimensions of a weight."""
CRC_MARK = b"crc_num"
CRC_BYTES = len(CRC_MARK) + 10
_CHUNK_BYTES = 1 << 20

_ITEM_BYTES: dict[str, int | None] = {
    "Int8": 1,
    "UInt8": 1,
    "Bool": 1,
    "Int16": 2,
    "UInt16": 2,
    "Float16": 2,
    "BFloat16": 2,
    "Int32": 4,
    "UInt32": 4,
    "Float32": 4,
    "Int64": 8,
    "UInt64": 8,
    "Float64": 8,
    "str": None,
    "Int4": None,
}
"""The types that load_checkpoint knows. None: the bytes do not follow from the shape."""
HEAD_BYTES = 16
_MISNAMED = {
    "ckpt": "a MindSpore checkpoint by its content, but MindSpore reads files of this name as safetensors.",
    "safetensors": "a safetensors file by its content, but MindSpore reads files of this name in its own form.",
}


def looks_like_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins with `head` (at least 9 bytes) can be safetensors."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= max(WEIGHTS.header_bytes, size)


def inspect(path: Path) -> ModelFacts:
    """Read the checkpoint at `path`, of either form.

    Raises:
        InspectionError: it is no checkpoint, cut short, changed since it was saved, or disagrees with itself; or it has
            the name of the other form.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        form = "safetensors" if looks_like_safetensors(file.read(HEAD_BYTES), size) else "ckpt"
        if (path.suffix == ".safetensors") != (form == "safetensors"):
            raise InspectionError(f"{path.name} is {_MISNAMED[form]} Call it .{form}")
        parameters = (read_safetensors if form == "safetensors" else read)(file, size, path.name)
    return ModelFacts(format=Format.MINDSPORE_CKPT, parameters=parameters)


def check_network(facts: ModelFacts, network: Network, name: str) -> None:
    """The parameters are those of the network, with its shapes; a training's own state beside them does not count.

    Raises:
        InspectionError: some are missing, are not of it, or have another shape; `errors` lists them.
        NetworkError: there is no such network, or it does not take those arguments.
    """
    found = {parameter.name: parameter.shape for parameter in facts.parameters}
    wrong = mismatches(networks.parameters(network), found)
    if wrong:
        arguments = ", ".join(f"{key}={value}" for key, value in network.arguments.items())
        raise InspectionError(
            f"{name} is not a checkpoint of {network.name}({arguments}). Give the network and the arguments that it "
            "was trained with, or save the checkpoint of that network",
            wrong,
        )


def read(file: BinaryIO, size: int, name: str) -> tuple[Parameter, ...]:
    """The parameters of a checkpoint in an open file of `size` bytes; `name` is for the messages.

    Raises:
        InspectionError: as `inspect` does.
    """
    weights = payload_bytes(file, size)
    try:
        parameters = _read(ProtobufWalk(file, weights), name)
    except TruncatedError as error:
        raise InspectionError(f"{name} is a checkpoint that is cut short: {error}. Copy it again") from error
    except ValueError as error:
        raise InspectionError(f"{name} is not a readable MindSpore checkpoint: {error}. Save it again") from error
    if weights < size:
        _check_crc(file, weights, name)
    return parameters


def read_safetensors(file: BinaryIO, size: int, name: str) -> tuple[Parameter, ...]:
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


def payload_bytes(file: BinaryIO, size: int) -> int:
    """Bytes of the file without the CRC that may stand at its end."""
    if size < CRC_BYTES:
        return size
    file.seek(size - CRC_BYTES)
    return size - CRC_BYTES if file.read(len(CRC_MARK)) == CRC_MARK else size


def _read(walk: ProtobufWalk, name: str) -> tuple[Parameter, ...]:
    found: dict[str, Parameter] = {}
    last = ""
    for value in walk.fields():
        if value.number != 1:
            raise InspectionError(f"{name} is not a MindSpore checkpoint: it has a field {value.number}")
        part = _parameter(walk, value)
        earlier = found.get(part.name)
        if earlier is not None:
            if part.name != last or (earlier.shape, earlier.datatype) != (part.shape, part.datatype):
                raise InspectionError(f"{name} has the parameter {part.name!r} twice")
            part = Parameter(part.name, part.datatype, part.shape, earlier.size + part.size)
        found[part.name] = part
        last = part.name
        if len(found) > MAX_PARAMETERS:
            raise InspectionError(f"{name} has more than {MAX_PARAMETERS} parameters")
    if not found:
        raise InspectionError(f"{name} has no parameters: not a MindSpore checkpoint")
    for parameter in found.values():
        _check_size(parameter, name)
    return tuple(found.values())


def _parameter(walk: ProtobufWalk, value: Field) -> Parameter:
    fields = walk.last(value)
    tag, tensor = walk.text(fields.get(1)), fields.get(2)
    if not tag or (tensor is None and 3 not in fields):
        raise InspectionError("an entry of the checkpoint has no name or no tensor: not a MindSpore checkpoint")
    if tensor is None:
        raise InspectionError(f"parameter {tag[:256]!r} is a hash table, which agents do not load. Save a dense one")
    dims: list[int] = []
    datatype, size = "", 0
    for part in walk.fields(tensor):
        if part.number == 1:
            dims.extend(walk.numbers(part))
        elif part.number == 2:
            datatype = walk.text(part)
        elif part.number == 3:
            size = part.length
        if len(dims) > MAX_RANK:
            raise InspectionError(f"parameter {tag[:256]!r} has more than {MAX_RANK} dimensions")
    return Parameter(tag, datatype, tuple(dims), size)


def _check_size(parameter: Parameter, name: str) -> None:
    """`[0]` is how MindSpore writes the shape of a number."""
    who = f"{name}: parameter {parameter.name[:256]!r}"
    if parameter.datatype not in _ITEM_BYTES:
        raise InspectionError(f"{who} has the type {parameter.datatype[:64]!r}, which MindSpore does not load")
    if any(not 0 <= dim <= 1 << 50 for dim in parameter.shape):
        raise InspectionError(f"{who} has an impossible shape: {list(parameter.shape)}")
    item = _ITEM_BYTES[parameter.datatype]
    if item is None or (parameter.shape == (0,) and parameter.size == item):
        return
    wanted = math.prod(parameter.shape) * item
    if parameter.size != wanted:
        raise InspectionError(
            f"{who} has {parameter.size} bytes, but {list(parameter.shape)} of {parameter.datatype} are {wanted}: "
            "the file is damaged"
        )


def _check_crc(file: BinaryIO, weights: int, name: str) -> None:
    file.seek(weights + len(CRC_MARK))
    said = int.from_bytes(file.read(10), "big")
    file.seek(0)
    value, left = 0, weights
    while left > 0 and (chunk := file.read(min(_CHUNK_BYTES, left))):
        value, left = zlib.crc32(chunk, value), left - len(chunk)
    if value != said:
        raise InspectionError(f"{name} has changed since MindSpore saved it: its CRC is another. Copy it again")
