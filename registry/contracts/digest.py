"""`sha256:<64 hex digits>` names immutable bytes. Nothing here reads files."""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import StringConstraints

PREFIX = "sha256:"

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
"""The name of a blob, a manifest or a variant."""


def digest_of(data: bytes | memoryview) -> Digest:
    """The digest of bytes held in memory."""
    return PREFIX + hashlib.sha256(data).hexdigest()


def hex_of(digest: Digest) -> str:
    """The 64 hex digits, safe as a file name.

    Raises:
        ValueError: it is not a sha256 digest.
    """
    text = digest.removeprefix(PREFIX)
    if not digest.startswith(PREFIX) or len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError(f"not a sha256 digest: {digest[:80]!r}")
    return text
