"""The upkeep of blobs: they are checked against their digests, and removed when nobody needs them.

They are checked when they are read, when they are published again, and in the background. RULE: what is not what its
name says is not served. A copy that was read twice and is wrong both times is set aside: the blob is not there any
more, so that publishing it again brings a whole one. A copy that cannot be read at all stays; that may be the disk's
condition. What was read whole and is right counts for TRUST_S, as long as the copy is not written again; a bit that
flips in that time is found by the device, which checks every file, and here at the next reading.

INVARIANT: blobs that no version and no validation set needs are collected, after a grace time, in a write transaction,
as publishing and finishing an upload are done in one: the sweep never comes between a check and its use. Files go
before the commit: after a crash a row may lack its file, which every reader of rows checks; a file is never left
without anybody knowing, because the next sweep looks at files too.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import datetime, timedelta

from sqlalchemy import delete, exists, func, or_, select, update

from registry.blobs.base import BlobReader, BlobStore
from registry.contracts.wire import DIGEST_PREFIX, Digest
from registry.db.catalog_rows import BlobRow, DatasetRow, UploadRow, VersionBlobRow
from registry.db.engine import Database
from registry.errors import DamagedError, NotFoundError, TemporaryError

CHUNK = 1 << 20
TRUST_S = 600.0
REMEMBERED = 10_000
PATIENCE_S = 20.0
"""Who publishes a blob again waits so long at most for the check of the copy; then that is taken as good."""
log = logging.getLogger(__name__)
Stopping = Callable[[], bool]


class BlobChecks:
    """Thread-safe.

    Args:
        every: A blob is read in the background when it was not for so long.
        rate: Bytes a second that the background reads.
    """

    def __init__(
        self, database: Database, blobs: BlobStore, *, every: timedelta = timedelta(days=7), rate: float = 32 << 20
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._every = every
        self._rate = rate
        self._lock = threading.Lock()
        self._trusted: dict[Digest, tuple[str, float]] = {}
        self._pause = threading.Event()  # never set: waiting on it is a sleep
        self.read = 0
        """Bytes that the background has read."""
        self.found = 0
        """Blobs that were found damaged."""
        self.known_damaged = 0
        """Blobs that a version or a validation set needs and whose copy is lost or wrong, as counted last."""

    def open(self, digest: Digest, now: datetime) -> BlobReader:
        """A blob to read.

        Raises:
            NotFoundError: this registry has no such blob.
            DamagedError: it has, but its copy is lost or not whole.
        """
        try:
            reader = self._blobs.open(digest)
        except NotFoundError:
            if not self._has_row(digest):
                raise
            self._note(digest, "is lost", now)
            raise _damaged(digest) from None
        if not self.trusts(digest, reader) and self._size(digest, reader.size) != reader.size:
            reader.close()
            if not self.is_whole(digest, now):
                raise _damaged(digest)
            return self._blobs.open(digest)
        return reader

    def trusts(self, digest: Digest, reader: BlobReader) -> bool:
        """Was this copy read whole a short while ago?"""
        stamp, until = self._trusted.get(digest, ("", 0.0))
        return stamp == reader.stamp and time.monotonic() < until

    def passed(self, digest: Digest, reader: BlobReader) -> None:
        """This copy was read whole and is right."""
        with self._lock:
            if len(self._trusted) >= REMEMBERED:
                self._trusted.clear()
            self._trusted[digest] = (reader.stamp, time.monotonic() + TRUST_S)

    def is_whole(self, digest: Digest, now: datetime, patience_s: float = float("inf")) -> bool:
        """Read it all, and once more when it is wrong; False when it is not there, or was set aside as wrong.

        True, too, when `patience_s` was over before the end. Raises TemporaryError: it cannot be read.
        """
        deadline = time.monotonic() + patience_s
        for last in (False, True):
            try:
                reader = self._blobs.open(digest)
            except NotFoundError:
                return False
            with closing(reader):
                if self.trusts(digest, reader):
                    return True
                came = self._digest(reader, lambda: time.monotonic() > deadline)
                if came == digest:
                    self.passed(digest, reader)
                if came in (digest, None):
                    return True
            if last:
                self._blobs.set_aside(digest)
                self._note(digest, "is not what its name says, and was set aside", now)
        return False

    def require_there(self, digest: Digest, now: datetime) -> None:
        """Before an upload is taken as done because the blob is there: a copy that is wrong goes."""
        try:
            self.is_whole(digest, now, PATIENCE_S)
        except TemporaryError as error:
            log.warning("blob %s cannot be read (%s): it is taken in again", digest, error.message)
            self._blobs.set_aside(digest)

    def damaged(self) -> list[Digest]:
        """Blobs that a version or a validation set needs and whose copy is known to be lost or wrong; the first 100."""
        with self._database.read() as session:
            return list(session.scalars(select(BlobRow.digest).where(*_NEEDED_AND_DAMAGED).limit(100)))

    def refresh(self) -> None:
        """Count those that are known to be damaged, for who asks `known_damaged`."""
        with self._database.read() as session:
            count = select(func.count()).select_from(BlobRow).where(*_NEEDED_AND_DAMAGED)
            self.known_damaged = session.scalar(count) or 0

    def sweep(self, clock: Callable[[], datetime], stopping: Stopping) -> int:
        """Read what was not read for `every`, at `rate`; how many blobs.

        What was read is in the database, so that a restart goes on with the next one. A blob that is damaged is
        looked at in every sweep: somebody may have put it back.
        """
        done = 0
        for damaged in (False, True):
            after = ""
            while not stopping() and (digest := self._next(clock(), after, damaged=damaged)) is not None:
                self._check(digest, clock, stopping)
                after = digest
                done += 1
        self.refresh()
        return done

    def _check(self, digest: Digest, clock: Callable[[], datetime], stopping: Stopping) -> None:
        try:
            with closing(self._blobs.open(digest)) as reader:
                came = self._digest(reader, stopping, self._rate)
        except NotFoundError:
            self._note(digest, "is lost", clock())
            return
        except TemporaryError as error:
            log.warning("blob %s cannot be read: %s", digest, error.message)
            return
        if came == digest:
            self.passed(digest, reader)
            self._save(digest, verified_at=clock(), damaged_at=None)
        elif came is not None:
            self.is_whole(digest, clock())

    def _digest(self, reader: BlobReader, enough: Callable[[], bool], rate: float = 0.0) -> Digest | None:
        """Of all of its bytes; None when `enough` came before the end."""
        sha, at = hashlib.sha256(), 0
        while data := reader.read_at(at, CHUNK):
            sha.update(data)
            at += len(data)
            if rate:
                self.read += len(data)
                self._pause.wait(len(data) / rate)
            if at < reader.size and enough():
                return None
        return DIGEST_PREFIX + sha.hexdigest()

    def _next(self, now: datetime, after: Digest, *, damaged: bool) -> Digest | None:
        """The next one that is due: never read, read too long ago, or (a clock was set) in the future."""
        due = or_(BlobRow.verified_at.is_(None), BlobRow.verified_at < now - self._every, BlobRow.verified_at > now)
        kind = BlobRow.damaged_at.is_not(None) if damaged else BlobRow.damaged_at.is_(None)
        query = select(BlobRow.digest).where(due, kind, BlobRow.digest > after).order_by(BlobRow.digest).limit(1)
        with self._database.read() as session:
            return session.scalar(query)

    def _has_row(self, digest: Digest) -> bool:
        with self._database.read() as session:
            return session.scalar(select(BlobRow.digest).where(BlobRow.digest == digest)) is not None

    def _size(self, digest: Digest, otherwise: int) -> int:
        """As the database has it; `otherwise` where it has none, or cannot be asked."""
        try:
            with self._database.read() as session:
                size = session.scalar(select(BlobRow.size).where(BlobRow.digest == digest))
        except TemporaryError:
            return otherwise
        return otherwise if size is None else size

    def _note(self, digest: Digest, what: str, now: datetime) -> None:
        with self._lock:
            self._trusted.pop(digest, None)
        try:
            new = self._save(digest, damaged_at=now, verified_at=None)
        except TemporaryError:
            return  # the next reading or sweep finds it again
        if new:
            self.found += 1
            log.error("blob %s %s; publish it again (registry publish) to replace it", digest, what)
            with suppress(TemporaryError):
                self.refresh()

    def _save(self, digest: Digest, *, verified_at: datetime | None, damaged_at: datetime | None) -> bool:
        """False: it was known to be damaged before."""
        query = update(BlobRow).where(BlobRow.digest == digest)
        if damaged_at is not None:
            query = query.where(BlobRow.damaged_at.is_(None))
        with self._database.write() as session:
            changed = session.connection().execute(query.values(verified_at=verified_at, damaged_at=damaged_at))
            return changed.rowcount > 0


_NEEDED_AND_DAMAGED = (
    BlobRow.damaged_at.is_not(None),
    or_(
        exists().where(VersionBlobRow.digest == BlobRow.digest),
        exists().where(DatasetRow.digest == BlobRow.digest),
    ),
)


def _damaged(digest: Digest) -> DamagedError:
    return DamagedError(
        f"The registry's copy of {digest} is lost or damaged, and is not served. Publish the version again: its file "
        "replaces the copy."
    )


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
