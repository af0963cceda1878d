"""A publisher's own keys: they sign the role of a model, which lists its versions.

Only what these keys signed before is extended, so that a registry cannot slip in a version. A key's file is PEM (PKCS
#8), with a passphrase in MODELFLEET_KEY_PASSPHRASE or without; a file that others can read is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Targets

from registry.client.api import ApiClient
from registry.client.errors import ClientError, ProblemError, UsageFault
from registry.contracts.api.trust import SignedFile, SignedFiles, TrustChanged
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.paths import trust_file_path, trust_files_path
from registry.publishing.signing import MAX_KEY_FILE_BYTES, OTHERS, PASSPHRASE_VARIABLE
from registry.trust.image import target_of
from registry.trust.names import IMAGE, TARGETS, TARGETS_LIFE, model_role
from registry.trust.private_keys import read_private

TRIES = 5
"""Where others sign the same role at the same moment."""


def load_model_key(path: Path) -> Signer:
    """The key in a file. Raises ClientError: it is not there or others can read it; UsageFault: it is no key."""
    try:
        with path.open("rb") as file:
            mode, data = os.fstat(file.fileno()).st_mode, file.read(MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise ClientError(f"The key {path} cannot be read: {error.strerror}", code="not_found") from error
    if mode & OTHERS:
        raise ClientError(f"The key {path} can be read by others", code="forbidden", hint=f"chmod 600 {path}")
    passphrase = os.environ.get(PASSPHRASE_VARIABLE)
    try:
        return read_private(data, passphrase.encode() if passphrase else None)
    except ValueError as error:
        hint = f"registry key new FILE makes one; the passphrase comes from {PASSPHRASE_VARIABLE}"
        raise UsageFault(f"{path} holds no private key that can be used: {error}", hint=hint) from None


def fetch_metadata(client: ApiClient, name: str) -> Metadata[Any] | None:
    """The newest metadata of a role of the image repository; None: there are none."""
    try:
        answer = client.call("GET", trust_file_path(IMAGE, name), repeatable=True)
    except ProblemError as error:
        if error.code == "not_found":
            return None
        raise
    try:
        return Metadata.from_bytes(answer.body)
    except ValueError as error:
        raise ClientError(f"The metadata {name} cannot be read: {error}", code="bad_answer") from error


def sign_version(client: ApiClient, manifest: Manifest, signers: Sequence[Signer], now: datetime) -> bool:
    """Have the model's role list this version, signed with these keys. False: it does already.

    Raises:
        ClientError: the model's versions are signed by other keys, or the role lists another content for the version.
    """
    role = model_role(manifest.model)
    for last in (False,) * (TRIES - 1) + (True,):
        metadata = own_role(client, role, signers)
        version = metadata.signed.version + bool(metadata.signatures)
        targets: Targets = metadata.signed
        body = manifest.canonical()
        target = target_of(
            manifest.model, manifest.version, manifest.canonical_digest(), len(body), earlier={}, yanked=False
        )
        there = targets.targets.get(target.path)
        if there is not None and (there.hashes, there.length) == (target.hashes, target.length):
            return False
        if there is not None:
            raise ClientError(
                f"The keys of {manifest.model} signed another content for {manifest.version}", code="conflict",
                hint="Publish this as a new version: --version",
            )  # fmt: skip
        targets.targets[target.path] = target
        try:
            _send(client, signed_again(role, metadata, version, signers, now))
        except ProblemError as error:
            if error.code != "conflict" or last:
                raise
        else:
            return True
    raise AssertionError


def signed_again(
    role: str, metadata: Metadata[Any], version: int, signers: Sequence[Signer], now: datetime
) -> SignedFile:
    """That version of a role, with a whole life before it."""
    metadata.signed.version = version
    metadata.signed.expires = (now + TARGETS_LIFE).replace(microsecond=0)
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    return SignedFile(repository=IMAGE, role=role, metadata=json.loads(json.dumps(metadata.to_dict())))


def own_role(client: ApiClient, role: str, signers: Sequence[Signer]) -> Metadata[Any]:
    """The role as these keys signed it. Raises ClientError."""
    top, found = fetch_metadata(client, f"{TARGETS}.json"), fetch_metadata(client, f"{role}.json")
    model = role.removeprefix("model-")
    if top is None or top.signed.delegations is None or role not in (top.signed.delegations.roles or {}):
        raise ClientError(
            f"The registry knows no keys of {model}", code="key_offline",
            hint=f"An administrator names them: registry trust delegate {model} --key FILE",
        )  # fmt: skip
    wanted = top.signed.delegations.roles[role]
    mine = {signer.public_key.keyid for signer in signers}
    if len(mine & set(wanted.keyids)) < wanted.threshold:
        raise ClientError(
            f"The versions of {model} are signed by {wanted.threshold} of the keys "
            f"{', '.join(keyid[:12] for keyid in wanted.keyids)}; given are {', '.join(k[:12] for k in sorted(mine))}",
            code="key_offline",
            hint=f"Give --key for each of them, or: registry trust delegate {model} --key FILE",
        )
    if found is None:
        return Metadata(Targets(version=1, targets={}))
    try:
        top.signed.verify_delegate(role, found.signed_bytes, found.signatures)
    except (UnsignedMetadataError, ValueError) as error:
        raise ClientError(
            f"What the registry lists for {model} was not signed with its keys ({error})", code="key_offline",
            hint=f"registry trust delegate {model} --key FILE signs the list as it is, when you have looked at it",
        ) from error  # fmt: skip
    return found


def _send(client: ApiClient, file: SignedFile) -> None:
    client.change("POST", trust_files_path(), SignedFiles(files=(file,)), TrustChanged, repeatable=True)
