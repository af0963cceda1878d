"""After the registry's data were put back from a backup, before it serves: devices notice, somebody can get in.

Everything here may be done again: a second time begins one more epoch and changes nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import func, select

from registry.blobs.base import BlobStore
from registry.contracts.wire import Digest
from registry.db.catalog_rows import BlobRow, VersionBlobRow
from registry.db.engine import Database
from registry.db.fleet_rows import DeviceRow
from registry.services.fleet.device_index import forget_index
from registry.services.fleet.epochs import epoch_of, forget_presence, renew_epoch
from registry.services.tokens import Tokens
from registry.services.trust.trust import Trust

REASON = "put back from a backup: registry restore"


@dataclass(frozen=True)
class Restored:
    """What was found and done."""

    epoch: str
    devices: int
    """Whose desired state was issued again."""
    new_admin: str | None
    """The name of a token that was made, because none was in the file, or one that the database does not know."""
    missing: tuple[Digest, ...]
    """Blobs that versions name and that are not there, or not whole."""
    trusted: bool = True
    """Devices believe the image repository again, although it went back. False: the keys of its root are not here."""


def restored(
    database: Database, blobs: BlobStore, tokens: Tokens, trust: Trust, now: datetime, *, given: str | None, file: Path
) -> Restored:
    """Begin a new epoch, forget who was online, make an administrator's token work, look for every blob, have devices
    forget the versions of signed metadata that they saw.

    Args:
        trust: The signed metadata.
        given: The token that the configuration names; None: the one in `file` is to work.
        file: The administrator's token, mode 0600.

    Raises:
        InvalidError: the given token is too short or too long to be safe.
    """
    tokens.ensure_admin(given, file, now)
    with database.write() as session:
        renew_epoch(session, now, REASON)
        forget_presence(session)
        forget_index(session)
        epoch = epoch_of(session)
        made = trust.image.begin(session, now) | trust.director.begin(session, now)
        trusted = made or trust.image.replace_online_key(session, now)
        devices = session.scalar(select(func.count()).select_from(DeviceRow)) or 0
    new_admin = tokens.readmit(file, f"admin-{epoch[:8]}", now) if given is None else None
    with database.read() as session:
        named = select(BlobRow.digest, BlobRow.size).where(BlobRow.digest.in_(select(VersionBlobRow.digest)))
        wanted = session.execute(named.order_by(BlobRow.digest)).all()
    missing = tuple(digest for digest, size in wanted if blobs.size_of(digest) != size)
    return Restored(epoch, devices, new_admin, missing, trusted)
