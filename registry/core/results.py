"""What a recorded result says of itself: version, request id, error code, and the form in which it is kept.

A result is Open Inference Protocol JSON, or its binary extension with the header's length in a user property or
behind BINARY_MAGIC. Whatever else comes is kept as bytes with nothing known about it: never refused, never run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from registry.contracts.tensors import BINARY_MAGIC, CONTENT_BINARY, CONTENT_JSON, MAX_HEADER_BYTES
from registry.contracts.wire import VersionName

MAX_READ_BYTES = 1 << 20
"""A longer JSON result is not even looked into."""
MAX_BODY_BYTES = 64 << 10
"""A longer result is kept as its metadata with a note."""
_VERSION: TypeAdapter[str] = TypeAdapter(VersionName)


@dataclass(frozen=True)
class Result:
    """One result as it is stored. `body` is None when it was too long; `note` says so."""

    content_type: str
    version: str | None
    request_id: str
    code: str
    body: bytes | None
    size: int
    header_length: int | None
    """Bytes of the JSON header at the start of a binary body, after the magic if there is one."""
    note: str = ""
    rollout: str = ""
    """Id of the rollout that put the version there; empty: none did, or the result does not say."""


def describe(payload: bytes, content_type: str = "", header_length: str = "") -> Result:
    """Reads what can be read; nothing in `payload` makes it fail."""
    start, length = _header(payload, header_length)
    binary = length is not None
    header = _object(payload[start : start + length] if length is not None else payload[:MAX_READ_BYTES])
    too_long = len(payload) > MAX_BODY_BYTES
    return Result(
        content_type=content_type[:128] or _guess(binary, bool(header), payload),
        version=_version(header),
        request_id=_text(header, "id") or "",
        code=_text(header, "code") or "",
        body=None if too_long else payload,
        size=len(payload),
        header_length=length,
        rollout=_text(_parameters(header), "rollout") or "",
        note=f"{len(payload)} bytes; only results up to {MAX_BODY_BYTES} bytes are kept" if too_long else "",
    )


def _header(payload: bytes, header_length: str) -> tuple[int, int | None]:
    """Where the JSON header starts and how long it is; (0, None) when the payload is not binary."""
    if payload.startswith(BINARY_MAGIC) and len(payload) >= 8:
        start, length = 8, int.from_bytes(payload[4:8], "little")
    elif header_length.isascii() and header_length.isdigit() and len(header_length) <= 9:
        start, length = 0, int(header_length)
    else:
        return 0, None
    fits = 0 < length <= min(MAX_HEADER_BYTES, len(payload) - start)
    return (start, length) if fits else (0, None)


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(header: dict[str, Any], key: str) -> str | None:
    value = header.get(key)
    return value[:64] if isinstance(value, str) else None


def _parameters(header: dict[str, Any]) -> dict[str, Any]:
    found = header.get("parameters")
    return found if isinstance(found, dict) else {}


def _version(header: dict[str, Any]) -> str | None:
    try:
        return _VERSION.validate_python(header.get("model_version"))
    except ValidationError:
        return None


def _guess(binary: bool, is_object: bool, payload: bytes) -> str:
    if binary or not (is_object or payload[:1] == b"{"):
        return CONTENT_BINARY
    return CONTENT_JSON
