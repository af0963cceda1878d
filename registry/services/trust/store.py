"""Signed metadata in the database: read, and written as the next version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from securesystemslib.signer import Signer
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session
from tuf.api.metadata import Metadata, Root, Signed, Targets

from registry.db.fleet_rows import RevisionRow
from registry.db.trust_rows import TrustMetadataRow
from registry.errors import KeyOfflineError, StorageFailedError
from registry.trust.building import RoleKeys, root_metadata, signed_metadata
from registry.trust.faults import TrustRefusedError
from registry.trust.names import ROOT, ROOT_LIFE, Repository
from registry.trust.roots import next_root

KEEP = timedelta(days=1)
"""Versions that were replaced are served so long: somebody may be reading the metadata that names them."""
SWEPT = 1000
"""Versions that one sweep removes."""


@dataclass(frozen=True)
class StoredMetadata:
    """One version of one role."""

    version: int
    body: bytes
    expires_at: datetime
    made_at: datetime

    def parsed(self) -> Metadata[Any]:
        """Raises StorageFailedError: what is stored is no metadata."""
        try:
            return Metadata.from_bytes(self.body)
        except ValueError as error:
            raise _damaged(error) from error

    def root(self) -> Root:
        """As `parsed`, of a root."""
        found = self.parsed().signed
        if not isinstance(found, Root):
            raise _damaged(f"instead of a root there is {found.type}")
        return found


def _damaged(why: object) -> StorageFailedError:
    return StorageFailedError(f"The signed metadata in the database are damaged: {why}.")


TURNS = 3
"""The row of `fleet_revision` that counts changes of signed metadata: whoever changes them holds it."""


def take_turn(session: Session) -> None:
    """Of several transactions that sign, the next one goes on when this one ended: versions follow one another."""
    row = session.get(RevisionRow, TURNS, with_for_update=True, populate_existing=True)
    if row is None:
        row = RevisionRow(id=TURNS, value=0)
        session.add(row)
    row.value += 1
    session.flush()


def newest(session: Session, repository: Repository, role: str) -> StoredMetadata | None:
    """The newest version of a role; None: there is none."""
    row = TrustMetadataRow
    query = select(row).where(row.repository == repository, row.role == role).order_by(row.version.desc()).limit(1)
    return _stored(session.scalar(query))


def exactly(session: Session, repository: Repository, role: str, version: int) -> StoredMetadata | None:
    """That version of a role; None: there is none, or it was replaced long ago."""
    return _stored(session.get(TrustMetadataRow, (repository, role, version)))


def _stored(row: TrustMetadataRow | None) -> StoredMetadata | None:
    return None if row is None else StoredMetadata(row.version, row.body, row.expires_at, row.made_at)


def is_due(stored: StoredMetadata, now: datetime) -> bool:
    """Is the first half of its life over?"""
    return now >= stored.made_at + (stored.expires_at - stored.made_at) / 2


def put(  # noqa: PLR0917 - of one row
    session: Session, repository: Repository, role: str, signed: Signed, body: bytes, now: datetime
) -> StoredMetadata:
    """Store the next version. The commit fails where another process has stored it meanwhile."""
    expires = signed.expires
    session.add(
        TrustMetadataRow(
            repository=repository, role=role, version=signed.version, body=body, expires_at=expires, made_at=now
        )
    )
    session.flush()
    return StoredMetadata(signed.version, body, expires, now)


def sign(delegator: Root | Targets, role: str, signed: Signed, signers: dict[str, Signer]) -> bytes:
    """The metadata of a role with as many signatures as its delegator demands.

    Raises:
        KeyOfflineError: not enough of the role's keys are here.
    """
    wanted = delegator.get_delegated_role(role)
    here = [signers[keyid] for keyid in wanted.keyids if keyid in signers]
    if len(here) < wanted.threshold:
        missing = [keyid for keyid in wanted.keyids if keyid not in signers]
        raise KeyOfflineError(
            f"The role {role} needs {wanted.threshold} of its keys; {len(here)} are in this registry. "
            f"Elsewhere: {', '.join(keyid[:12] for keyid in missing)}."
        )
    return signed_metadata(signed, here[: wanted.threshold])


def keys_of(root: Root) -> dict[str, RoleKeys]:
    """Who signs the top roles."""
    return {
        name: RoleKeys([root.keys[keyid] for keyid in role.keyids], role.threshold) for name, role in root.roles.items()
    }


def next_root_of(root: Root, changed: Mapping[str, RoleKeys], now: datetime) -> Root:
    """The root after this one, in which other keys sign some roles."""
    return root_metadata(root.version + 1, now + ROOT_LIFE, keys_of(root) | dict(changed))


def sign_root(before: Root, after: Root, signers: Mapping[str, Signer]) -> bytes | None:
    """A root as the one before and it itself demand; None: not enough of the keys are here."""
    wanted = [*before.roles[ROOT].keyids, *after.roles[ROOT].keyids]
    body = signed_metadata(after, [signers[keyid] for keyid in dict.fromkeys(wanted) if keyid in signers])
    try:
        next_root(before, body)
    except TrustRefusedError:
        return None
    return body


def may_sign(delegator: Root | Targets, role: str, signers: dict[str, Signer]) -> bool:
    """Are enough of the role's keys here?"""
    wanted = delegator.get_delegated_role(role)
    return sum(keyid in signers for keyid in wanted.keyids) >= wanted.threshold


def sweep(session: Session, now: datetime) -> int:
    """Remove what was replaced over KEEP ago, but for roots, each of which some device still needs; some at a time."""
    row = TrustMetadataRow
    query = select(row.repository, row.role, func.max(row.version).label("last"))
    settled = query.where(row.role != ROOT, row.made_at < now - KEEP).group_by(row.repository, row.role).subquery()
    of_role = (row.repository == settled.c.repository) & (row.role == settled.c.role)
    old = select(row.repository, row.role, row.version).join(settled, of_role).where(row.version < settled.c.last)
    found = session.execute(old.limit(SWEPT)).all()
    for repository, role, version in found:
        session.execute(delete(row).where(row.repository == repository, row.role == role, row.version == version))
    return len(found)
