"""What takes the room on the registry's disk. One count for all who ask within FRESH_S, and one at a time: it reads
every row of the blobs, which are few beside devices, and no file.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, select
from sqlalchemy.orm import Session

from registry.blobs.base import BlobStore
from registry.contracts.api.upkeep import MAX_VERSIONS, DiskView, UnneededRoom, VersionRoom
from registry.db.catalog_rows import BlobRow, DatasetRow, UploadRow, VersionBlobRow, VersionRow
from registry.db.engine import Database
from registry.errors import RegistryError

FRESH_S = 30.0


class DiskUse:
    """Thread-safe.

    Args:
        grace: How long a blob that nobody needs is kept.
        every_s: Seconds between two collections of garbage.
        reserve: Bytes that uploads leave free.
    """

    def __init__(self, database: Database, blobs: BlobStore, *, grace: timedelta, every_s: float, reserve: int) -> None:
        self._database, self._blobs = database, blobs
        self._grace, self._every_s, self._reserve = grace, every_s, reserve
        self._lock = threading.Lock()
        self._counted: tuple[float, DiskView] | None = None

    def view(self, now: datetime) -> DiskView:
        """Counted now, or by whoever asked within FRESH_S."""
        with self._lock:
            if self._counted is None or time.monotonic() - self._counted[0] >= FRESH_S:
                self._counted = time.monotonic(), self._count(now)
            return self._counted[1]

    def _count(self, now: datetime) -> DiskView:
        with self._database.read() as session:
            sessions = list(session.scalars(select(UploadRow.id)))
            versions, more = _versions(session)
            total, size = session.execute(select(func.count(), func.coalesce(func.sum(BlobRow.size), 0))).one()
            needed = {
                "shared_bytes": _sum(session, BlobRow.digest.in_(_several())),
                "dataset_bytes": _sum(session, BlobRow.digest.in_(select(DatasetRow.digest))),
            }
            damaged = session.scalar(select(func.count()).where(BlobRow.damaged_at.is_not(None))) or 0
            unneeded = self._unneeded(session, now)
            database_bytes = self._database.size_bytes(session)
        return DiskView(
            at=now,
            free_bytes=self._blobs.free_bytes(),
            reserve_bytes=self._reserve,
            blobs=int(total),
            bytes=int(size),
            unneeded=unneeded,
            collects_every_s=self._every_s,
            grace_s=self._grace.total_seconds(),
            uploads=len(sessions),
            upload_bytes=sum(map(self._received, sessions)),
            damaged=damaged,
            database_bytes=database_bytes,
            versions=versions,
            more_versions=more,
            **needed,
        )

    def _received(self, upload: str) -> int:
        try:
            return self._blobs.offset(upload)
        except (RegistryError, OSError):
            return 0  # it was completed meanwhile, or its disk fails, which other checks say

    def _unneeded(self, session: Session, now: datetime) -> UnneededRoom:
        due = BlobRow.used_at < now - self._grace
        columns = (
            func.count(),
            func.coalesce(func.sum(BlobRow.size), 0),
            func.coalesce(func.sum(case((due, 1), else_=0)), 0),
            func.coalesce(func.sum(case((due, BlobRow.size), else_=0)), 0),
        )
        held = select(VersionBlobRow.digest).union(select(UploadRow.digest), select(DatasetRow.digest))
        which = BlobRow.digest.not_in(held)
        blobs, size, due_blobs, due_bytes = session.execute(select(*columns).where(which)).one()
        last = session.scalar(select(func.max(BlobRow.used_at)).where(which))
        return UnneededRoom(
            blobs=int(blobs),
            bytes=int(size),
            due_blobs=int(due_blobs),
            due_bytes=int(due_bytes),
            last_due=last + self._grace if last is not None else None,
        )


def _several() -> Select[Any]:
    """Digests that more than one version has."""
    return select(VersionBlobRow.digest).group_by(VersionBlobRow.digest).having(func.count() > 1)


def _sum(session: Session, which: ColumnElement[bool]) -> int:
    return int(session.scalar(select(func.coalesce(func.sum(BlobRow.size), 0)).where(which)) or 0)


def _versions(session: Session) -> tuple[tuple[VersionRoom, ...], int]:
    others = select(DatasetRow.digest).union(_several())
    own = func.coalesce(func.sum(case((BlobRow.digest.in_(others), 0), else_=BlobRow.size)), 0).label("own")
    size = func.coalesce(func.sum(BlobRow.size), 0)
    query = select(VersionRow.model, VersionRow.version, VersionRow.yanked_at, size, own).select_from(VersionRow)
    query = query.outerjoin(VersionBlobRow, VersionBlobRow.version_id == VersionRow.id)
    query = query.outerjoin(BlobRow, BlobRow.digest == VersionBlobRow.digest)
    query = query.group_by(VersionRow.id, VersionRow.model, VersionRow.version, VersionRow.yanked_at)
    rows = session.execute(query.order_by(own.desc(), VersionRow.model, VersionRow.id).limit(MAX_VERSIONS)).all()
    found = tuple(
        VersionRoom(model=model, version=version, bytes=int(total), own=int(alone), yanked=yanked_at is not None)
        for model, version, yanked_at, total, alone in rows
    )
    count = session.scalar(select(func.count()).select_from(VersionRow)) or 0
    return found, max(0, count - len(found))
