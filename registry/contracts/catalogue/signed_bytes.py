"""The bytes that the signature (Ed25519, RFC 8032) of an entry point covers.

It holds for one module, one function with these arguments, all files of one variant of one version of one model: when
any of them changes, it is invalid. Publisher and agent use the same function; nothing here signs or verifies.
"""

from __future__ import annotations

from registry.contracts.catalogue.entry_points import EntryCode
from registry.contracts.catalogue.manifest import Variant
from registry.contracts.wire import Name, VersionName, canonical_json

PURPOSE = "modelfleet-entry-point-v1"
"""In the signed bytes, so that a signature made for something else is never one of these."""


def signed_bytes(model: Name, version: VersionName, variant: Variant, code: EntryCode) -> bytes:
    """The canonical JSON of everything that decides which code runs on what.

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
