"""Where the JSON header of a binary payload ends: as a property of the message says, or as the payload itself says.

The self-contained form is for MQTT 3.1.1, which has no properties: BINARY_MAGIC, the header's length as u32
little-endian, the header, the tensors. The other is Triton Inference Server's binary tensor data extension, with its
HTTP header `Inference-Header-Content-Length` as a user property.
"""

from __future__ import annotations

from ..contracts.codes import InferenceCode
from ..contracts.tensors import BINARY_MAGIC, MAX_HEADER_BYTES
from .errors import RequestError
from .packets import Buffer

MAGIC_BYTES = len(BINARY_MAGIC) + 4
"""Before the header of a self-contained payload."""


def header_end(payload: Buffer) -> int:
    """Where the header of a self-contained payload, of at least MAGIC_BYTES, is said to end; it may be anything."""
    start = len(BINARY_MAGIC)
    return MAGIC_BYTES + int.from_bytes(payload[start:MAGIC_BYTES], "little")


def checked_header_end(payload: Buffer) -> int:
    """Where the header of a payload that begins with BINARY_MAGIC ends. Raises RequestError."""
    if len(payload) < MAGIC_BYTES:
        raise RequestError(
            InferenceCode.BAD_PAYLOAD, f"{BINARY_MAGIC!r} needs {MAGIC_BYTES} bytes at least, got {len(payload)}"
        )
    end = header_end(payload)
    check_header_length(end - MAGIC_BYTES, len(payload) - MAGIC_BYTES)
    return end


def check_header_length(length: int, available: int) -> None:
    """Raises RequestError for a header that is empty, over MAX_HEADER_BYTES, or longer than the payload."""
    if not 0 < length <= min(available, MAX_HEADER_BYTES):
        raise bad_header_length(length, available)


def bad_header_length(length: int, available: int) -> RequestError:
    """The refusal of a header length that cannot be."""
    return RequestError(
        InferenceCode.BAD_PAYLOAD,
        f"header length {length}: must be 1..{MAX_HEADER_BYTES} and within the payload's {available} bytes",
    )


def self_contained(header: bytes) -> bytes:
    """The header of a payload in self-contained form, with what stands before it."""
    return BINARY_MAGIC + len(header).to_bytes(4, "little") + header
