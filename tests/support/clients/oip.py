"""A small client of the Open Inference Protocol, written from its text and not from the agent's code.

Pure: it makes payloads and reads them; whoever uses it publishes. Arrays are NumPy's; BYTES are object arrays of
`bytes`, BF16 is float32 on the outside.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"OIPB"
DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BF16": "<f4", "BYTES": "O",
}  # fmt: skip


@dataclass(frozen=True)
class Input:
    name: str
    datatype: str
    array: NDArray[Any]
    binary: bool = True


@dataclass(frozen=True)
class Request:
    payload: bytes
    header_length: int | None
    """Value of the user property `inference-header-content-length`; None: leave it out."""


@dataclass(frozen=True)
class Result:
    header: dict[str, Any]
    outputs: dict[str, NDArray[Any]]


def to_bytes(datatype: str, array: NDArray[Any]) -> bytes:
    """Little-endian, row-major; BYTES with u32 lengths; BF16 by cutting float32 (give values that it can hold)."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(item)) + item for item in array.ravel())
    if datatype == "BF16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes() if array.size else b""
    return array.astype(DTYPES[datatype]).tobytes()


def from_bytes(datatype: str, data: bytes, shape: Sequence[int]) -> NDArray[Any]:
    if datatype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    if datatype != "BYTES":
        return np.frombuffer(data, DTYPES[datatype]).reshape(shape)
    items: list[bytes] = []
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        items.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape)


def encode_request(
    inputs: Sequence[Input],
    *,
    request_id: str = "",
    outputs: Sequence[tuple[str, bool | None]] = (),
    parameters: dict[str, Any] | None = None,
    nested: bool = False,
    magic: bool = False,
) -> Request:
    """`outputs`: (name, binary_data or None). `nested`: JSON data nested like the shape, else flat."""
    header: dict[str, Any] = {"id": request_id} if request_id else {}
    header["inputs"] = [_input_json(item, nested=nested) for item in inputs]
    if outputs:
        header["outputs"] = [
            {"name": name, **({} if binary is None else {"parameters": {"binary_data": binary}})}
            for name, binary in outputs
        ]
    if parameters:
        header["parameters"] = parameters
    text = json.dumps(header, separators=(",", ":")).encode()
    body = b"".join(to_bytes(item.datatype, item.array) for item in inputs if item.binary)
    if magic:
        return Request(MAGIC + struct.pack("<I", len(text)) + text + body, None)
    return Request(text + body, len(text) if any(item.binary for item in inputs) else None)


def _input_json(item: Input, *, nested: bool) -> dict[str, Any]:
    described: dict[str, Any] = {"name": item.name, "shape": list(item.array.shape), "datatype": item.datatype}
    if item.binary:
        described["parameters"] = {"binary_data_size": len(to_bytes(item.datatype, item.array))}
        return described
    array = item.array if nested and item.array.ndim else item.array.ravel()
    values = array.tolist()
    described["data"] = _decoded(values) if item.datatype == "BYTES" else values
    return described


def _decoded(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else [_decoded(item) for item in value]


def decode_reply(payload: bytes, header_length: int | None = None) -> Result:
    """Any result; the form shows by the header length or the magic. Errors are in `header["error"]`."""
    start = 0
    if header_length is None and payload.startswith(MAGIC):
        (header_length,) = struct.unpack_from("<I", payload, 4)
        start = 8
    end = len(payload) if header_length is None else start + header_length
    header = json.loads(payload[start:end])
    outputs: dict[str, NDArray[Any]] = {}
    at = end
    for output in header.get("outputs", []):
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            outputs[output["name"]] = _from_json(output)
        else:
            outputs[output["name"]] = from_bytes(output["datatype"], payload[at : at + size], output["shape"])
            at += size
    if at != len(payload):
        raise ValueError(f"{len(payload) - at} bytes behind the last tensor")
    return Result(header, outputs)


def _from_json(output: dict[str, Any]) -> NDArray[Any]:
    data = output["data"]
    if output["datatype"] == "BYTES":
        array = np.empty(len(data), dtype=object)
        array[:] = [item.encode() for item in data]
        return array.reshape(output["shape"])
    return np.array(data, dtype=DTYPES[output["datatype"]]).reshape(output["shape"])
