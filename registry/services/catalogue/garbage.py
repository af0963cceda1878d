"""Collecting blobs that no version and no validation set needs, after a grace time.

INVARIANT: runs in a write transaction, as publishing and finishing an upload do, so it never comes between a
check and its use. Files go before the commit: after a crash a row may lack its file, which every reader of
rows checks; a file is never left without anybody knowing, because the next sweep looks at files too.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, select

from registry.blobs.base import BlobStore
from registry.contracts.wire import Digest
from registry.db.catalog_rows import BlobRow, DatasetRow, UploadRow, VersionBlobRow
from registry.db.engine import Database

BATCH = 200
"""Blobs that one transaction removes: others wait that long at most."""


class Garbage:
    """The sweep; a scheduled job calls it."""

    def __init__(self, database: Database, blobs: BlobStore, grace: timedelta) -> None:
        self._database = database
        self._blobs = blobs
        self._grace = grace

    def sweep(self, now: datetime) -> int:
        """Remove what nobody used for the grace time; how many blobs."""
        removed = 0
        while batch := self._unused(now):
            gone = self._remove(batch, now)
            removed += gone
            if not gone:
                break  # somebody came to need them meanwhile
        return removed + self._remove_unknown()

    def _unused(self, now: datetime) -> list[Digest]:
        query = (
            select(BlobRow.digest)
            .outerjoin(VersionBlobRow, VersionBlobRow.digest == BlobRow.digest)
            .outerjoin(DatasetRow, DatasetRow.digest == BlobRow.digest)
            .where(BlobRow.used_at < now - self._grace, VersionBlobRow.digest.is_(None), DatasetRow.digest.is_(None))
            .limit(BATCH)
        )
        with self._database.read() as session:
            return list(session.scalars(query))

    def _remove(self, digests: list[Digest], now: datetime) -> int:
        needed = select(VersionBlobRow.digest).union(select(UploadRow.digest), select(DatasetRow.digest))
        still = select(BlobRow.digest).where(
            BlobRow.digest.in_(digests), BlobRow.used_at < now - self._grace, BlobRow.digest.not_in(needed)
        )
        with self._database.write() as session:
            gone = list(session.scalars(still))
            session.execute(delete(BlobRow).where(BlobRow.digest.in_(gone)))
            for digest in gone:
                self._blobs.delete(digest)
        return len(gone)

    def _remove_unknown(self) -> int:
        """Files whose row was never committed."""
        removed = 0
        for digest in self._blobs.older_than(self._grace.total_seconds()):
            with self._database.read() as session:
                known = session.get(BlobRow, digest) is not None
            if known:
                continue
            with self._database.write() as session:
                if session.get(BlobRow, digest) is None:
                    self._blobs.delete(digest)
                    removed += 1
        return removed
