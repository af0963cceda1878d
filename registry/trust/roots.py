"""Roots: what a device is given at first (`trust.json`), and the way from one root to the next. No input or output."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError

from registry.contracts.wire import canonical_json
from registry.trust.faults import TrustFault, TrustRefusedError
from registry.trust.names import DIRECTOR, IMAGE, MAX_ROOT_BYTES, MAX_ROOTS, Repository

MAX_ANCHORS_BYTES = 2 * MAX_ROOT_BYTES + 1024


@dataclass(frozen=True)
class TrustAnchors:
    """The roots that a device trusts without asking: the content of `trust.json`."""

    image: bytes
    """The metadata of a root of the image repository."""
    director: bytes
    """That of a root of the director."""

    def of(self, repository: Repository) -> bytes:
        """The root of one of the two."""
        return self.image if repository == IMAGE else self.director

    def to_json(self) -> bytes:
        """The file: `{"image": ROOT, "director": ROOT}`."""
        return canonical_json({IMAGE: json.loads(self.image), DIRECTOR: json.loads(self.director)}) + b"\n"


def read_anchors(data: bytes) -> TrustAnchors:
    """The roots in a `trust.json`; each has the signatures that it demands itself.

    Raises:
        TrustRefusedError: it is no such file, or a root in it is not whole.
    """
    if len(data) > MAX_ANCHORS_BYTES:
        raise TrustRefusedError(TrustFault.FORM, f"The file of roots has over {MAX_ANCHORS_BYTES} bytes.")
    try:
        said = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TrustRefusedError(TrustFault.FORM, f"The file of roots is no JSON: {error}") from None
    if not isinstance(said, dict):
        raise TrustRefusedError(TrustFault.FORM, "The file of roots is no JSON object.")
    roots = {}
    for repository in (IMAGE, DIRECTOR):
        if not isinstance(said.get(repository), dict):
            raise TrustRefusedError(TrustFault.FORM, f"The file of roots has no root of the {repository} repository.")
        roots[repository] = canonical_json(said[repository])
        read_root(roots[repository])
    return TrustAnchors(roots[IMAGE], roots[DIRECTOR])


def read_root(data: bytes) -> Root:
    """A root that signs for itself; its expiry is not looked at. Raises TrustRefusedError."""
    metadata = _read(data)
    _require_signed(metadata.signed, metadata)
    return metadata.signed


def next_root(trusted: Root, data: bytes) -> Root:
    """The root that follows the trusted one: enough keys of both signed it, and its version is one more.

    Raises:
        TrustRefusedError: it is not the next one.
    """
    metadata = _read(data)
    after = metadata.signed
    if after.version != trusted.version + 1:
        raise TrustRefusedError(
            TrustFault.ROLLBACK, f"The root after {trusted.version} has the version {after.version}."
        )
    for root in (trusted, after):
        _require_signed(root, metadata)
    return after


def newest_root(anchor: bytes, later: Iterable[bytes]) -> Root:
    """The root at the end of the chain; `later` has the roots after the anchor in their order, at most MAX_ROOTS.

    Raises:
        TrustRefusedError: one of them does not follow the one before.
    """
    root = read_root(anchor)
    for passed, data in enumerate(later):
        if passed >= MAX_ROOTS:
            raise TrustRefusedError(TrustFault.FORM, f"There are over {MAX_ROOTS} roots after the trusted one.")
        root = next_root(root, data)
    return root


def _read(data: bytes) -> Metadata[Root]:
    if len(data) > MAX_ROOT_BYTES:
        raise TrustRefusedError(TrustFault.FORM, f"The root has over {MAX_ROOT_BYTES} bytes.")
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    except (DeserializationError, RecursionError) as error:
        raise TrustRefusedError(TrustFault.FORM, f"The root is no metadata: {error}") from None
    if not isinstance(metadata.signed, Root):
        raise TrustRefusedError(TrustFault.FORM, f"Instead of a root it is {metadata.signed.type!r}.")
    return metadata


def _require_signed(root: Root, metadata: Metadata[Root]) -> None:
    try:
        root.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except UnsignedMetadataError as error:
        raise TrustRefusedError(
            TrustFault.SIGNATURE, f"Root {metadata.signed.version} lacks signatures of root {root.version}: {error}"
        ) from None
    except (RepositoryError, ValueError) as error:
        raise TrustRefusedError(TrustFault.FORM, f"The root is no metadata: {error}") from None
