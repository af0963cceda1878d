"""The reply to an inference request, the Open Inference Protocol's (KServe v2) response, and its errors.

{"model_name", "model_version", "id"?, "parameters": {"variant", "variant_digest", "device", "rollout"?,
"correlation_id"?}, "outputs": [{"name", "shape", "datatype", "parameters": {"binary_data_size"} | "data"}]}

A request with the header-length property is answered with the property, one in self-contained form (BINARY_MAGIC)
in that form. A response without binary tensors is plain JSON, except to a self-contained request.
Errors are always plain JSON: {"error", "code", "id"?, "model_name"?, "model_version"?, "parameters"?}.
Sources: KServe, Open Inference Protocol V2, "Inference Response JSON Object"; Triton Inference Server, binary tensor
data extension (`binary_data_size`). `code` and this product's parameters are its own.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from registry.contracts.tensors import CONTENT_JSON
from registry.inference.errors import MAX_MESSAGE
from registry.inference.json_tensors import data_to_json
from registry.inference.packets import Buffer

_json = msgspec.json.encode


class OutputTensor(NamedTuple):
    """One output: name, datatype and shape of the protocol, and its bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer


class Reply(NamedTuple):
    """A payload in pieces (join or send them in order), and the properties that go with it."""

    pieces: tuple[Buffer, ...]
    header_length: int | None
    """Value of the user property HEADER_LENGTH_PROPERTY; None: leave it out."""
    content_type: str

    def join(self) -> bytes:
        """The payload in one piece."""
        return b"".join(self.pieces)


def error_reply(code: str, message: str, model: str = "", request_id: str = "", correlation_id: str = "") -> Reply:
    """An error result where no version serves: an unknown model, or one that is not ready."""
    body: dict[str, object] = {**error_body(code, message, request_id), **({"model_name": model} if model else {})}
    if correlation_id:
        body["parameters"] = {"correlation_id": correlation_id}
    return Reply((_json(body),), None, CONTENT_JSON)


def error_body(code: str, message: str, request_id: str) -> dict[str, str]:
    """What every error says; whoever knows more adds it."""
    return {"error": message[:MAX_MESSAGE], "code": str(code), **({"id": request_id} if request_id else {})}


def describe(output: OutputTensor, binary: bool) -> bytes:
    """The JSON of one output: with its data, or with the size of what follows the header. Raises RequestError."""
    if binary:
        return describe_binary(output.name, output.datatype, output.shape, len(output.data))
    shown = _json({"name": output.name, "shape": output.shape, "datatype": str(output.datatype)})
    return shown[:-1] + b',"data":' + data_to_json(output.data, output.datatype, output.name) + b"}"


def describe_binary(name: str, datatype: str, shape: tuple[int, ...], size: int) -> bytes:
    """The JSON of one output whose `size` bytes follow the header."""
    described = {"name": name, "shape": shape, "datatype": str(datatype), "parameters": {"binary_data_size": size}}
    return _json(described)
