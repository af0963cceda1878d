"""The base of every value that crosses a process boundary, and its canonical bytes.

Values are frozen and check themselves. Unknown fields are kept, not refused, so that an older
reader passes on what a newer writer said. Canonical bytes (sorted keys, no spaces, UTF-8, fields
at their default left out) name a document by digest and are what a signature is put around.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from registry.contracts.digest import Digest, digest_of


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
