"""The base of every value that crosses a process boundary, and its canonical bytes; names and digests.

Values are frozen and check themselves. Unknown fields are kept, not refused, so that an older
reader passes on what a newer writer said. Canonical bytes (sorted keys, no spaces, UTF-8, fields
at their default left out) name a document by digest and are what a signature is put around.
Names need no escaping in topics, URLs and file names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from registry.contracts.topics import NAME

MAX_INTEGER = 1 << 53
"""Of a whole number on the wire: beyond it JSON readers lose the last digits, and databases refuse it later."""
Integer = Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
"""A whole number that no other bound holds."""
Name = Annotated[str, StringConstraints(pattern=NAME)]
"""A model, variant, device or alias: 1 to 64 of `a-z 0-9 . _ -`, starting and ending with a letter or digit.
No `/ + # $`: a name is one MQTT topic level and one URL path segment."""

VERSION_NAME = r"^[A-Za-z0-9]([A-Za-z0-9._+-]{0,62}[A-Za-z0-9])?$"
VersionName = Annotated[str, StringConstraints(pattern=VERSION_NAME)]
"""A version: like a name, with capitals and `+`, so that SemVer with build data fits."""

LABEL_KEY = r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,62}[A-Za-z0-9])?$"
LabelKey = Annotated[str, StringConstraints(pattern=LABEL_KEY)]
LabelValue = Annotated[str, StringConstraints(max_length=256)]

_UNSAFE = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\\\\*"
"""What no level of a path has: control characters, line separators, what turns the direction of text, backslashes, and
`*`: ONNX Runtime takes the path `*/_ORT_MEM_ADDR_/*` for an address in memory."""
_LEVEL = f"[^./{_UNSAFE}][^/{_UNSAFE}]*"
MAX_LEVEL_BYTES = 255
"""Of one level, in UTF-8: what the usual file systems take."""


def _levels_fit(path: str) -> str:
    long = next((level for level in path.split("/") if len(level.encode()) > MAX_LEVEL_BYTES), None)
    if long is not None:
        raise ValueError(f"{long[:40]!r}... has over {MAX_LEVEL_BYTES} bytes")
    return path


RelativePath = Annotated[
    str,
    StringConstraints(max_length=255, pattern=f"^{_LEVEL}(/{_LEVEL}){{0,7}}$"),
    AfterValidator(_levels_fit),
]
"""A file inside an artifact: POSIX, relative, at most 8 levels, no level starts with a dot (so no `..`).

Else as exporters name their files, spaces, accents and `#` too: a model finds its weights by that name."""


DIGEST_PREFIX = "sha256:"

DIGEST = r"^sha256:[0-9a-f]{64}$"
Digest = Annotated[str, StringConstraints(pattern=DIGEST)]
"""The name of a blob, a manifest or a variant."""


def digest_of(data: bytes | memoryview) -> Digest:
    """The digest of bytes held in memory."""
    return DIGEST_PREFIX + hashlib.sha256(data).hexdigest()


def hex_of(digest: Digest) -> str:
    """The 64 hex digits, safe as a file name.

    Raises:
        ValueError: it is not a sha256 digest.
    """
    text = digest.removeprefix(DIGEST_PREFIX)
    if not digest.startswith(DIGEST_PREFIX) or len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError(f"not a sha256 digest: {digest[:80]!r}")
    return text


class Wire(BaseModel):
    """A frozen wire value; unknown fields survive a round trip."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def unknown_fields(self) -> tuple[str, ...]:
        """Where it has fields that this reader does not know, at any depth: `rate.max_unavailble`, `waves.0.soak`."""
        return tuple(_unknown_in(self, ""))

    def to_json(self) -> dict[str, Any]:
        """The value as JSON types, without fields that are at their default."""
        return self.model_dump(mode="json", exclude_defaults=True, by_alias=True)

    def canonical(self) -> bytes:
        """The bytes that are hashed and signed: the same value gives the same bytes, always."""
        return canonical_json(self.to_json())

    def canonical_digest(self) -> Digest:
        """`sha256:<hex>` of `canonical()`."""
        return digest_of(self.canonical())


def _unknown_in(value: object, where: str) -> Iterator[str]:
    if isinstance(value, Wire):
        yield from (f"{where}{name}" for name in sorted(value.model_extra or ()))
        parts: Iterable[tuple[object, object]] = ((name, getattr(value, name)) for name in type(value).model_fields)
    elif isinstance(value, Mapping):
        parts = value.items()
    else:
        parts = enumerate(value) if isinstance(value, (tuple, list)) else ()
    for name, part in parts:
        yield from _unknown_in(part, f"{where}{name}.")


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no insignificant space; NaN and infinities are refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
