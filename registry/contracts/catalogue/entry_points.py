"""Entry-point modules: Python that comes with a checkpoint and builds its network, and what its signature is around.

Code is the one thing that an agent runs because somebody signed it. The signature (Ed25519, RFC 8032) holds for one
module, one function with these arguments, all files of one variant of one version of one model: on any of them changed
it is worth nothing. Publisher and agent make the signed bytes with the same function here; nothing here signs or
verifies.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from registry.contracts.digest import Digest, digest_of
from registry.contracts.names import Name, RelativePath, VersionName
from registry.contracts.wire import Wire, canonical_json

if TYPE_CHECKING:
    from registry.contracts.catalogue.manifest import Variant

PURPOSE = "modelfleet-entry-point-v1"
"""In the signed bytes, so that a signature made for something else is never one of these."""
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
    arguments: Annotated[dict[str, int | float | bool | str], Field(max_length=32)] = Field(default_factory=dict)
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


def signed_bytes(model: Name, version: VersionName, variant: Variant, code: EntryCode) -> bytes:
    """What the signature is put around: the canonical JSON of everything that decides which code runs on what.

    `files` has every file of the variant by path, the checkpoint and the module too.
    """
    return canonical_json(
        {
            "purpose": PURPOSE,
            "model": model,
            "version": version,
            "variant": variant.name,
            "entry": variant.entry,
            "files": {file.path: file.digest for file in variant.files},
            "module": code.module,
            "function": code.function,
            "arguments": code.arguments,
        }
    )


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
