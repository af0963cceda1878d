"""Requests to payloads: the JSON header, the tensors behind it, and the properties that MQTT 5 sends beside them.

The id stands first, where devices look for it: all that follows is the same for requests of one kind, and is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...contracts.codes import InferenceCode
from ...contracts.tensors import (
    CONTENT_BINARY,
    CONTENT_IMAGES,
    CONTENT_JSON,
    HEADER_LENGTH_PROPERTY,
    MAX_HEADER_BYTES,
    MAX_JSON_BYTES,
)
from ...inference.header import self_contained
from ...inference.packets import text
from .arrays import WireTensor, json_data
from .errors import BadRequestError

MAX_KEPT = 256
"""Headers, and properties, that are kept."""
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


class Encoded(NamedTuple):
    """A request that is ready to be sent, any number of times."""

    properties: bytes
    """Of MQTT 5, without the expiry and the correlation data."""
    pieces: tuple[bytes, ...]


class ReplyAddress(NamedTuple):
    """Where the answer goes, for a request of MQTT 3.1.1, which says so in its payload."""

    topic: str
    correlation: str


class Options(NamedTuple):
    """What is asked beside the inputs."""

    outputs: tuple[str, ...] | None = None
    """Names; None: all that the model has."""
    version: str = ""
    """Only this version may answer; empty: whichever serves."""
    binary: bool = True
    detections: tuple[tuple[str, Any], ...] = ()
    """Parameters of the request: names and values."""


class RequestEncoder:
    """Makes the payloads of one client. Any thread."""

    def __init__(self, reply_topic: bytes) -> None:
        self._response = b"\x08" + text(reply_topic)
        self._headers: dict[Any, bytes] = {}
        self._properties: dict[tuple[str, int], bytes] = {}

    def tensors(
        self, inputs: Mapping[str, WireTensor], options: Options, request_id: str, reply: ReplyAddress | None = None
    ) -> Encoded:
        """A request of tensors, or of one picture (see `picture_tensor`). Raises BadRequestError."""
        if not options.binary:
            return self._json(inputs, options, request_id, reply)
        key = (tuple((name, each[0], each[1], len(each[2])) for name, each in inputs.items()), options)
        rest = self._headers.get(key)
        if rest is None:
            rest = _header(_described(inputs), options)
            if len(self._headers) >= MAX_KEPT:
                self._headers.clear()
            self._headers[key] = rest
        header = b'{"id":' + _quoted(request_id) + rest
        if reply is not None:
            header = self_contained(header[:-2] + _address(reply))
        if len(header) > MAX_HEADER_BYTES:
            raise BadRequestError(
                InferenceCode.TOO_LARGE, f"the header has {len(header)} bytes, at most {MAX_HEADER_BYTES} can be sent"
            )
        return Encoded(
            self._properties_of(CONTENT_BINARY, len(header)), (header, *(each[2] for each in inputs.values()))
        )

    def picture(self, picture: bytes) -> Encoded:
        """A picture as it is, of which the device knows the input. MQTT 5 only; it has no id."""
        return Encoded(self._properties_of(picture_type(picture), -1), (picture,))

    def empty(self, request_id: str, reply: ReplyAddress | None) -> Encoded:
        """A request that has only an id and where its answer goes."""
        header = b'{"id":' + _quoted(request_id) + b',"parameters":{}}'
        if reply is not None:
            header = header[:-2] + _address(reply, first=True)
        return Encoded(self._properties_of(CONTENT_JSON, -1), (header,))

    def _json(
        self, inputs: Mapping[str, WireTensor], options: Options, request_id: str, reply: ReplyAddress | None
    ) -> Encoded:
        described = []
        for name, tensor in inputs.items():
            try:
                data = json_data(tensor)
            except UnicodeDecodeError:
                raise BadRequestError(
                    InferenceCode.WRONG_DATATYPE, f"input {name!r}: bytes that are not UTF-8 need binary=True"
                ) from None
            described.append(
                {"name": name, "shape": list(tensor.shape), "datatype": str(tensor.datatype), "data": data}
            )
        document = b'{"id":' + _quoted(request_id) + _header(described, options)
        if reply is not None:
            document = document[:-2] + _address(reply)
        if len(document) > MAX_JSON_BYTES:
            raise BadRequestError(
                InferenceCode.TOO_LARGE, f"{len(document)} bytes of JSON, at most {MAX_JSON_BYTES}: use binary=True"
            )
        return Encoded(self._properties_of(CONTENT_JSON, -1), (document,))

    def _properties_of(self, content_type: str, header_length: int) -> bytes:
        key = (content_type, header_length)
        found = self._properties.get(key)
        if found is None:
            found = self._response + b"\x03" + text(content_type.encode())
            if header_length >= 0:
                found += b"\x26" + text(HEADER_LENGTH_PROPERTY.encode()) + text(str(header_length).encode())
            if len(self._properties) >= MAX_KEPT:
                self._properties.clear()
            self._properties[key] = found
        return found


def picture_tensor(picture: bytes) -> WireTensor:
    """A picture in the place of the tensor of a model's picture input. Raises BadRequestError."""
    picture_type(picture)
    return WireTensor("BYTES", (1,), len(picture).to_bytes(4, "little") + picture)


def picture_type(picture: bytes) -> str:
    """The content type of a JPEG or PNG file. Raises BadRequestError."""
    jpeg, png = CONTENT_IMAGES
    if picture.startswith(_JPEG):
        return jpeg
    if picture.startswith(_PNG):
        return png
    raise BadRequestError(InferenceCode.BAD_IMAGE, "the picture is neither a JPEG nor a PNG file")


def _quoted(request_id: str) -> bytes:
    return json.dumps(request_id).encode()


def _described(inputs: Mapping[str, WireTensor]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "shape": list(tensor.shape),
            "datatype": str(tensor.datatype),
            "parameters": {"binary_data_size": len(tensor.data)},
        }
        for name, tensor in inputs.items()
    ]


def _header(inputs: Sequence[dict[str, Any]], options: Options) -> bytes:
    """All that follows the id. It ends with the request's parameters: two braces."""
    document: dict[str, Any] = {}
    if options.version:
        document["model_version"] = options.version
    document["inputs"] = inputs
    if options.outputs is not None:
        document["outputs"] = [{"name": name} for name in options.outputs]
    document["parameters"] = {"binary_data_output": options.binary, **dict(options.detections)}
    return b"," + json.dumps(document, separators=(",", ":")).encode()[1:]


def _address(reply: ReplyAddress, *, first: bool = False) -> bytes:
    """What is put before the two braces at the end."""
    said = json.dumps({"response_topic": reply.topic, "correlation_id": reply.correlation}, separators=(",", ":"))
    return (b"" if first else b",") + said[1:].encode() + b"}"
