"""Private keys as text: PEM (PKCS #8), with a passphrase or without; and several in one file that is kept offline.

Ed25519, ECDSA (P-256, P-384) and RSA keys; new ones are Ed25519. No input or output.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.exceptions import Error as KeyLibraryError
from securesystemslib.signer import CryptoSigner

OFFLINE_FORMAT = "modelfleet-offline-keys-1"
MAX_OFFLINE_BYTES = 1 << 20


def read_private(pem: bytes, passphrase: bytes | None = None) -> CryptoSigner:
    """The key in PEM. Raises ValueError: there is none, or the passphrase is wrong or missing."""
    try:
        return CryptoSigner(load_pem_private_key(pem, passphrase))
    except (TypeError, UnsupportedAlgorithm, KeyLibraryError) as error:
        raise ValueError(str(error)) from error


def offline_file(keys: Mapping[str, bytes], passphrase: bytes) -> bytes:
    """Keys in PEM by the name of their file, as a file of which each is under the passphrase. Raises ValueError."""
    if not passphrase:
        raise ValueError("an empty passphrase")
    form = Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase)
    locked = {name: load_pem_private_key(pem, None).private_bytes(*form).decode() for name, pem in keys.items()}
    return json.dumps({"format": OFFLINE_FORMAT, "keys": locked}, indent=1, sort_keys=True).encode() + b"\n"


def read_offline_file(data: bytes, passphrase: bytes) -> dict[str, CryptoSigner]:
    """The keys in such a file. Raises ValueError: it is none, or the passphrase is wrong."""
    if len(data) > MAX_OFFLINE_BYTES:
        raise ValueError(f"over {MAX_OFFLINE_BYTES} bytes")
    said = json.loads(data)
    if not isinstance(said, dict) or said.get("format") != OFFLINE_FORMAT or not isinstance(said.get("keys"), dict):
        raise ValueError("no file of offline keys")
    return {str(name): read_private(str(pem).encode(), passphrase) for name, pem in said["keys"].items()}
