"""The base of every value that crosses a process boundary, and its canonical bytes.

Values are frozen and check themselves. Unknown fields are kept, not refused, so that an older
reader passes on what a newer writer said. Canonical bytes (sorted keys, no spaces, UTF-8, fields
at their default left out) name a document by digest and are what a signature is put around.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from registry.contracts.digest import Digest, digest_of


class Wire(BaseModel):
    """A frozen wire value; unknown fields survive a round trip."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def to_json(self) -> dict[str, Any]:
        """The value as JSON types, without fields that are at their default."""
        return self.model_dump(mode="json", exclude_defaults=True, by_alias=True)

    def canonical(self) -> bytes:
        """The bytes that are hashed and signed: the same value gives the same bytes, always."""
        return canonical_json(self.to_json())

    def canonical_digest(self) -> Digest:
        """`sha256:<hex>` of `canonical()`."""
        return digest_of(self.canonical())


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no insignificant space; NaN and infinities are refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
