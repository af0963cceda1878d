"""Metadata to be signed, and its bytes. Pure but for the random part of some kinds of signature.

Whoever signs decides versions and times; everything here only says what stands in the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from registry.contracts.wire import Name
from registry.trust.names import (
    ROOT,
    SIGNED_AT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    UNCLAIMED,
    UNCLAIMED_PATTERN,
    file_name,
    model_pattern,
    model_role,
)

SPECIFICATION = "1.0.31"
TOP_ROLES = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)


@dataclass(frozen=True)
class RoleKeys:
    """Who signs a role: so many of these keys."""

    keys: Sequence[Key]
    threshold: int = 1

    def role(self) -> Role:
        """As it stands in the metadata."""
        return Role([key.keyid for key in self.keys], self.threshold)


def root_metadata(version: int, expires: datetime, roles: Mapping[str, RoleKeys]) -> Root:
    """A root; `roles` has the keys of each of TOP_ROLES."""
    return Root(
        version=version,
        spec_version=SPECIFICATION,
        expires=_whole(expires),
        keys={key.keyid: key for each in roles.values() for key in each.keys},
        roles={name: roles[name].role() for name in TOP_ROLES},
        consistent_snapshot=True,
    )


def targets_metadata(version: int, expires: datetime) -> Targets:
    """Targets without an entry; of `targets`, `unclaimed` or a model's role."""
    return Targets(version=version, spec_version=SPECIFICATION, expires=_whole(expires), targets={})


def delegations_metadata(models: Mapping[Name, RoleKeys], unclaimed: RoleKeys) -> Delegations:
    """What `targets` delegates: every model to a role of its own, terminating; the rest to `unclaimed`."""
    everyone = [*models.values(), unclaimed]
    roles = [_delegated(model_role(model), each, model_pattern(model)) for model, each in sorted(models.items())]
    last = _delegated(UNCLAIMED, unclaimed, UNCLAIMED_PATTERN)
    return Delegations(
        keys={key.keyid: key for each in everyone for key in each.keys},
        roles={role.name: role for role in [*roles, last]},
    )


def _delegated(name: str, signers: RoleKeys, pattern: str) -> DelegatedRole:
    keyids = [key.keyid for key in signers.keys]
    return DelegatedRole(name, keyids, signers.threshold, terminating=True, paths=[pattern])


def snapshot_metadata(version: int, expires: datetime, versions: Mapping[str, int]) -> Snapshot:
    """`versions`: of `targets` and of each delegated role. Digests are left out: each file is signed, and at most one
    of each version is ever made."""
    meta = {file_name(role, None): MetaFile(number) for role, number in versions.items()}
    return Snapshot(version=version, spec_version=SPECIFICATION, expires=_whole(expires), meta=meta)


def timestamp_metadata(version: int, expires: datetime, snapshot: int, body: bytes, now: datetime) -> Timestamp:
    """`body`: the metadata of the snapshot of that version."""
    return Timestamp(
        version=version,
        spec_version=SPECIFICATION,
        expires=_whole(expires),
        snapshot_meta=MetaFile.from_data(snapshot, body, ["sha256"]),
        unrecognized_fields={SIGNED_AT: _whole(now).strftime("%Y-%m-%dT%H:%M:%SZ")},
    )


def signed_metadata(signed: Signed, signers: Iterable[Signer]) -> bytes:
    """The file, with a signature of each signer."""
    metadata: Metadata[Any] = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes(JSONSerializer(compact=True))


def _whole(at: datetime) -> datetime:
    """TUF's times have whole seconds."""
    return at.replace(microsecond=0)
