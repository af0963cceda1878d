"""Which manifest the image repository lists for a version. No input or output: what is read comes in as bytes.

python-tuf's `TrustedMetadataSet` checks each file against the one above it. It belongs to the internals of its client,
which has no other way to verify what lies on a disk. So its minor version is pinned, and tests state what is needed.

Only `targets` delegates: what a model's role delegates further is not followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from tuf.api.exceptions import (
    BadVersionNumberError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from registry.contracts.wire import DIGEST_PREFIX, Digest, Name, VersionName, hex_of
from registry.trust.faults import TrustFault, TrustRefusedError
from registry.trust.names import (
    MAX_ROOT_BYTES,
    MAX_SNAPSHOT_BYTES,
    MAX_TARGETS_BYTES,
    MAX_TIMESTAMP_BYTES,
    TARGETS,
    target_path,
)

LONG_AGO = datetime(1970, 1, 1, tzinfo=timezone.utc)
"""At that time nothing is expired."""
MAX_EARLIER = 64
"""Earlier manifests of one version: one for each variant that was added."""
EARLIER = "earlier"
YANKED = "yanked"
"""Names in the `custom` part of a target."""


@dataclass(frozen=True)
class ListedManifest:
    """What a trusted role says of a version."""

    role: str
    """Which role lists it."""
    digest: Digest
    """Of the newest manifest of the version."""
    length: int
    """Its bytes."""
    earlier: Mapping[Digest, int]
    """Digest and length of the manifests that it extends: devices that were told one of them may go on with it."""
    yanked: bool
    """A person said that nothing new should get it. Information only: the order to a device is the desired document."""
    signers: frozenset[str]
    """Ids of the keys that signed the role."""

    def require(self, digest: Digest, length: int) -> None:
        """Raises TrustRefusedError: a manifest of this digest and length is not what is listed."""
        listed = self.length if digest == self.digest else self.earlier.get(digest)
        if listed is None:
            raise TrustRefusedError(
                TrustFault.MISMATCH, f"The role {self.role} lists another manifest for this version: {self.digest}."
            )
        if listed != length:
            raise TrustRefusedError(
                TrustFault.MISMATCH, f"The manifest has {length} bytes; the role {self.role} lists {listed}."
            )


@dataclass(frozen=True)
class ImageFiles:
    """Metadata of the image repository as a device keeps it, from one refresh."""

    roots: Sequence[bytes]
    """Those after the root that the device was given, in their order."""
    timestamp: bytes
    snapshot: bytes
    targets: bytes
    delegated: Mapping[str, bytes]
    """By role."""


def trusted_set(anchor: bytes, at: datetime | None) -> TrustedMetadataSet:
    """An empty set that trusts this root; what is loaded into it is judged by the time `at`.

    Args:
        anchor: The metadata of the trusted root.
        at: The time now, aware. None: what is expired counts all the same, as for what serves already.

    Raises:
        TrustRefusedError: it is no root that signs for itself.
    """
    _require_length(anchor, MAX_ROOT_BYTES, "root")
    with _refusing():
        found = TrustedMetadataSet(anchor, EnvelopeType.METADATA)
    found.reference_time = at or LONG_AGO
    return found


def verified_files(anchor: bytes, files: ImageFiles, at: datetime | None) -> TrustedMetadataSet:
    """The set with root, timestamp, snapshot and targets of these files, each verified by the one above it.

    Raises:
        TrustRefusedError: one of them is not what it has to be; or one is expired, where `at` is given.
    """
    trusted = trusted_set(anchor, at)
    with _refusing():
        for root in files.roots:
            _require_length(root, MAX_ROOT_BYTES, "root")
            trusted.update_root(root)
        _require_length(files.timestamp, MAX_TIMESTAMP_BYTES, "timestamp")
        trusted.update_timestamp(files.timestamp)
        _require_length(files.snapshot, MAX_SNAPSHOT_BYTES, "snapshot")
        trusted.update_snapshot(files.snapshot)
        _require_length(files.targets, MAX_TARGETS_BYTES, "targets")
        trusted.update_targets(files.targets)
    return trusted


def find_manifest(
    trusted: TrustedMetadataSet, model: Name, version: VersionName, load: Callable[[str], bytes | None]
) -> ListedManifest:
    """What the responsible role lists for a version, roles in the order of their delegation.

    Args:
        trusted: With `targets` loaded.
        model: Whose version it is.
        version: Its name.
        load: Gives the bytes of a role's metadata, of the version that the snapshot names, from disk or network; None:
            there is none. It is called for roles that are responsible and not loaded yet.

    Raises:
        TrustRefusedError: no role lists it, or the role's metadata is missing or not what it has to be.
    """
    path = target_path(model, version)
    delegations = trusted.targets.delegations
    if delegations is not None:
        for role, terminating in delegations.get_roles_for_target(path):
            data = load(role)
            if data is None:
                raise TrustRefusedError(TrustFault.MISMATCH, f"The metadata of the role {role} is missing.")
            listed = _listed_by(trusted, role, data, path)
            if listed is not None:
                return listed
            if terminating:
                break
    raise TrustRefusedError(TrustFault.NOT_LISTED, f"No trusted role lists {model} {version}.")


def _listed_by(trusted: TrustedMetadataSet, role: str, data: bytes, path: str) -> ListedManifest | None:
    _require_length(data, MAX_TARGETS_BYTES, role)
    with _refusing():
        trusted.update_delegated_targets(data, role, TARGETS)
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        signed: Targets = metadata.signed
        result = trusted.targets.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        target = signed.targets.get(path)
        return None if target is None else _listed(role, target, frozenset(result.signed))


def _listed(role: str, target: TargetFile, signers: frozenset[str]) -> ListedManifest:
    custom = target.custom if isinstance(target.custom, dict) else {}
    earlier = custom.get(EARLIER, {})
    if not isinstance(earlier, dict) or len(earlier) > MAX_EARLIER:
        raise ValueError("the list of earlier manifests is not as it should be")
    return ListedManifest(
        role=role,
        digest=_digest(target.hashes["sha256"]),
        length=target.length,
        earlier={_digest(hexadecimal): int(length) for hexadecimal, length in earlier.items()},
        yanked=custom.get(YANKED) is True,
        signers=signers,
    )


def _digest(hexadecimal: str) -> Digest:
    digest = DIGEST_PREFIX + hexadecimal
    hex_of(digest)
    return digest


def target_of(
    model: Name, version: VersionName, digest: Digest, length: int, *, earlier: Mapping[Digest, int], yanked: bool
) -> TargetFile:
    """The target of a version, as its model's role lists it. Raises ValueError: too many earlier manifests."""
    if len(earlier) > MAX_EARLIER:
        raise ValueError(f"{model} {version} has {len(earlier)} earlier manifests; {MAX_EARLIER} are the most")
    custom: dict[str, Any] = {}
    if earlier:
        custom[EARLIER] = {hex_of(each): size for each, size in earlier.items()}
    if yanked:
        custom[YANKED] = True
    unrecognized = {"custom": custom} if custom else None
    return TargetFile(length, {"sha256": hex_of(digest)}, target_path(model, version), unrecognized)


def _require_length(data: bytes, most: int, role: str) -> None:
    if len(data) > most:
        raise TrustRefusedError(TrustFault.FORM, f"The metadata {role} has {len(data)} bytes; {most} are the most.")


_FAULTS: tuple[tuple[type[Exception], TrustFault], ...] = (
    (ExpiredMetadataError, TrustFault.EXPIRED),
    (UnsignedMetadataError, TrustFault.SIGNATURE),
    (BadVersionNumberError, TrustFault.ROLLBACK),
    (LengthOrHashMismatchError, TrustFault.MISMATCH),
)


def refusal_of(error: Exception) -> TrustRefusedError:
    """What an error of python-tuf says, as the refusal that is counted and reported."""
    fault = next((fault for kind, fault in _FAULTS if isinstance(error, kind)), TrustFault.FORM)
    return TrustRefusedError(fault, f"The metadata is refused: {str(error)[:500] or type(error).__name__}")


@contextmanager
def _refusing() -> Iterator[None]:
    """Raises TrustRefusedError for what python-tuf does not accept."""
    try:
        yield
    except (RepositoryError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise refusal_of(error) from error
