"""Entry-point modules: Python that comes with a checkpoint and builds its network, and the keys that sign it.

Code is the one thing that an agent runs because somebody signed it. What is signed: `signed_bytes`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import Field, field_validator

from registry.contracts.wire import Digest, Integer, RelativePath, Wire, digest_of

MAX_MODULE_BYTES = 1 << 20
KEY_BYTES = 32
"""Of a raw Ed25519 public key."""
KEY_PREFIX = "ed25519:"


class EntryCode(Wire):
    """Which code builds the network of a checkpoint."""

    module: RelativePath
    """The Python source among the variant's files; it stands alone, nothing beside it can be imported."""
    function: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Called with `arguments`, it returns the `mindspore.nn.Cell` that the parameters are filled into."""
    arguments: Annotated[dict[str, Integer | float | bool | str], Field(max_length=32)] = Field(default_factory=dict)
    """Keyword arguments: `{"num_class": 10}`."""

    @field_validator("module")
    @classmethod
    def _is_python(cls, module: str) -> str:
        if not module.endswith(".py"):
            raise ValueError(f"an entry point is in a Python file, NAME.py, not in {module!r}")
        return module


class EntryPoint(EntryCode):
    """Signed code. Whether the signer is trusted is every agent's own decision."""

    key: Digest
    """sha256 of the raw public key."""
    signature: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]
    """Ed25519 around `signed_bytes`, 64 bytes in base64."""


def key_id(public_key: bytes) -> Digest:
    """The name of a raw public key."""
    return digest_of(public_key)


def key_text(public_key: bytes) -> str:
    """A raw public key as settings and commands write it: `ed25519:<base64>`."""
    return KEY_PREFIX + base64.b64encode(public_key).decode("ascii")


def parse_key(text: str) -> bytes:
    """The raw public key in `ed25519:<base64>`.

    Raises:
        ValueError: it is not 32 bytes in that form.
    """
    try:
        found = base64.b64decode(text.removeprefix(KEY_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if not text.startswith(KEY_PREFIX) or len(found) != KEY_BYTES:
        raise ValueError(f"not a public key: {text[:80]!r}; `registry key new` prints one, {KEY_PREFIX}<base64>")
    return found
