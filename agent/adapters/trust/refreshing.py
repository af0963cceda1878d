"""The client workflow of TUF 1.0 (section 5), over python-tuf's `TrustedMetadataSet`: one refresh of a repository.

What decides is python-tuf: each file is verified by the one above it, and none is older than the one that it replaces.
Here stands the order in which files are asked for, their bounds, and what is kept. python-tuf's own `Updater` keeps
each file by itself, so that a cut of power could leave a mixture that cannot be verified without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import datetime

from tuf.api.exceptions import EqualVersionNumberError, RepositoryError
from tuf.api.metadata import MetaFile
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

from agent.adapters.trust.store import KeptMetadata
from registry.contracts.wire import Name
from registry.trust.faults import TrustFault, TrustRefusedError
from registry.trust.image import refusal_of, trusted_set
from registry.trust.names import (
    MAX_ROOT_BYTES,
    MAX_ROOTS,
    MAX_SNAPSHOT_BYTES,
    MAX_TARGETS_BYTES,
    MAX_TIMESTAMP_BYTES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    file_name,
    target_path,
)
from registry.trust.time_floor import signed_at, time_floor

ANY_VERSION = "0"
"""Roles are delegated whole models."""
FetchMetadata = Callable[[str, int], "bytes | None"]
"""Name of a file and the most bytes that it may have, to its bytes; None: there is no such file. It has an end, also
where the other side is slow, and raises AgentError for what cannot be had."""


class ImageRefresh:
    """One refresh of the image repository. What was accepted so far is in `kept`, also where it fails."""

    def __init__(self, anchor: bytes, before: KeptMetadata, at: datetime, fetch: FetchMetadata) -> None:
        """Args:
        anchor: The root that the device was given.
        before: What it keeps.
        at: The time by which expiry is judged; not before the floor.
        fetch: Gets files.
        """
        self.kept = before.copy()
        self._anchor = anchor
        self._at = at
        self._fetch = fetch

    def run(self, models: Collection[Name]) -> TrustedMetadataSet:
        """All of the repository that this device needs: the top, and the roles that list these models.

        Raises:
            TrustRefusedError: something is not what it has to be.
            AgentError: something cannot be had.
        """
        try:
            return self._run(models)
        except (RepositoryError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
            raise refusal_of(error) from error

    def _run(self, models: Collection[Name]) -> TrustedMetadataSet:
        trusted = trusted_set(self._anchor, self._at)
        self._roots(trusted)
        self._timestamp(trusted)
        self._snapshot(trusted)
        self._targets(trusted, TARGETS, ROOT)
        roles = responsible_roles(trusted, models)
        for role in sorted(roles):
            self._targets(trusted, role, TARGETS)
        wanted = {TIMESTAMP, SNAPSHOT, TARGETS, *roles}
        self.kept.files = {name: body for name, body in self.kept.files.items() if name in wanted}
        self.kept.models = sorted(models)
        return trusted

    def _roots(self, trusted: TrustedMetadataSet) -> None:
        kept, self.kept.roots = self.kept.roots, []
        for root in kept:
            trusted.update_root(root)
            self.kept.roots.append(root)
        while len(self.kept.roots) < MAX_ROOTS:
            data = self._fetch(file_name(ROOT, trusted.root.version + 1), MAX_ROOT_BYTES)
            if data is None:
                return
            trusted.update_root(data)
            self.kept.roots.append(data)
        raise TrustRefusedError(TrustFault.FORM, f"There are over {MAX_ROOTS} roots after the one that was given.")

    def _timestamp(self, trusted: TrustedMetadataSet) -> None:
        before = self.kept.files.get(TIMESTAMP)
        if before is not None:
            with suppress(RepositoryError):  # Expired, or of a key that the newest root does not name any more.
                trusted.update_timestamp(before)
        data = self._required(file_name(TIMESTAMP, None), MAX_TIMESTAMP_BYTES)
        try:
            trusted.update_timestamp(data)
        except EqualVersionNumberError:
            return
        self.kept.files[TIMESTAMP] = data
        self.kept.floor = time_floor(self.kept.floor, signed_at(trusted.timestamp.unrecognized_fields))

    def _snapshot(self, trusted: TrustedMetadataSet) -> None:
        before, meta = self.kept.files.get(SNAPSHOT), trusted.timestamp.snapshot_meta
        if before is not None:
            with suppress(RepositoryError):  # Another than the timestamp names: only to tell a rollback by.
                trusted.update_snapshot(before, trusted=not _is_named(meta, before))
                return
        name = file_name(SNAPSHOT, meta.version)
        data = self._required(name, min(meta.length or MAX_SNAPSHOT_BYTES, MAX_SNAPSHOT_BYTES))
        trusted.update_snapshot(data)
        self.kept.files[SNAPSHOT] = data

    def _targets(self, trusted: TrustedMetadataSet, role: str, delegator: str) -> None:
        before, meta = self.kept.files.get(role), trusted.snapshot.meta.get(file_name(role, None))
        if before is not None:
            with suppress(RepositoryError):  # Another version than the snapshot names, or another key's.
                trusted.update_delegated_targets(before, role, delegator)
                return
        if meta is None:
            raise TrustRefusedError(TrustFault.MISMATCH, f"The snapshot names no version of {role}.")
        name = file_name(role, meta.version)
        data = self._required(name, min(meta.length or MAX_TARGETS_BYTES, MAX_TARGETS_BYTES))
        trusted.update_delegated_targets(data, role, delegator)
        self.kept.files[role] = data

    def _required(self, name: str, limit: int) -> bytes:
        data = self._fetch(name, limit)
        if data is None:
            raise TrustRefusedError(TrustFault.MISMATCH, f"The registry has no {name}.")
        return data


def _is_named(meta: MetaFile, data: bytes) -> bool:
    """Has it the length and the digests that the file above says?"""
    try:
        meta.verify_length_and_hashes(data)
    except RepositoryError:
        return False
    return True


def responsible_roles(trusted: TrustedMetadataSet, models: Collection[Name]) -> set[str]:
    """The delegated roles that may list versions of these models: in their order, up to the first that terminates."""
    delegations, found = trusted.targets.delegations, set[str]()
    if delegations is None:
        return found
    for model in models:
        for role, terminating in delegations.get_roles_for_target(target_path(model, ANY_VERSION)):
            found.add(role)
            if terminating:
                break
    return found
