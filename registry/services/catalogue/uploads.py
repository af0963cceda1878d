"""Upload sessions: the server states the next byte, hashes what comes, and shows the blob only when it is whole.

A session's progress is what the store has of it, so a restart or SIGKILL loses nothing that was acknowledged; the hash
is then made again from what the store reads back. INVARIANT: one writer per session (`_active`).
INVARIANT: a session holds the room for the rest of its blob from its beginning to its end: another one begins only
where it fits beside them and the reserve. One caller has a part of the sessions and of the writers.
Methods block on disk and database: call them in a thread.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from registry.blobs.base import BlobStore, BlobWriter
from registry.contracts.api.uploads import OpenUpload, UploadRequest, UploadView
from registry.contracts.wire import DIGEST_PREFIX
from registry.core.shares import Holdings, Lack, part_of
from registry.db.catalog_rows import BlobRow, UploadRow
from registry.db.engine import Database
from registry.errors import (
    BusyError,
    DigestMismatchError,
    InvalidError,
    NotFoundError,
    OffsetMismatchError,
    RegistryError,
    StorageFullError,
    TemporaryError,
    TooLargeError,
)
from registry.services.catalogue.blob_upkeep import BlobChecks
from registry.services.shares import ShareRefusals

CHUNK = 1 << 20
GONE = "There is no such upload: it is finished, it expired or was cancelled, or it is another token's."
SAVE_EVERY = 64 << 20
"""Bytes after which a long request's progress is made durable."""


@dataclass(frozen=True)
class UploadLimits:
    """Bounds of all sessions."""

    blob_bytes: int
    open_sessions: int
    writers: int
    ttl: timedelta
    disk_reserve: int
    share: float = 1.0
    """The part of sessions and of writers that one caller may have."""


class _Hash:
    """SHA-256 of an upload's first `offset` bytes, of which `durable` would survive a power cut."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()
        self.offset = 0
        self.durable = 0

    def update(self, data: bytes | bytearray) -> None:
        self.sha.update(data)
        self.offset += len(data)


class UploadWriter:
    """The one writer of a session, while one request sends bytes."""

    def __init__(self, row: UploadRow, writer: BlobWriter, digest: _Hash) -> None:
        self.row = row
        self.writer = writer
        self.hash = digest
        self.cancelled = False

    @property
    def missing(self) -> int:
        """Bytes until the blob is whole."""
        return self.row.size - self.writer.offset

    def take(self, data: bytes | bytearray) -> None:
        """Write and hash the next bytes.

        Raises:
            TooLargeError: more than was announced.
            StorageFullError: the disk is full; what came before stays.
            NotFoundError: somebody has cancelled the session.
        """
        if self.cancelled:
            raise NotFoundError(GONE)
        if len(data) > self.missing:
            raise TooLargeError(f"The upload was announced with {self.row.size} bytes, and more came.")
        self.writer.append(data)
        self.hash.update(data)
        if self.hash.offset - self.hash.durable >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Make it durable."""
        self.writer.save()
        self.hash.durable = self.hash.offset


class Uploads:
    """The use cases of uploading. Thread-safe."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        limits: UploadLimits,
        checks: BlobChecks | None = None,
        shares: ShareRefusals | None = None,
    ) -> None:
        self._shares = shares or ShareRefusals()
        self._database = database
        self._checks = checks or BlobChecks(database, blobs)
        self._blobs = blobs
        self._limits = limits
        self._lock = threading.Lock()
        self._active: dict[str, UploadWriter | None] = {}
        self._writers = Holdings(limits.writers, part_of(limits.writers, limits.share))
        self._hashes: dict[str, _Hash] = {}

    def begin(self, request: UploadRequest, token: str, now: datetime) -> UploadView:
        """A session for the blob; the same one again for the same token; complete when the blob is there, and whole.

        Raises:
            TooLargeError, StorageFullError, BusyError, ShareError: a limit is reached.
            InvalidError: the blob is there with another size.
        """
        if request.size > self._limits.blob_bytes:
            raise TooLargeError(f"A blob may have {self._limits.blob_bytes} bytes; this one has {request.size}.")
        self._checks.require_there(request.digest, now)
        with self._database.write() as session:
            if self._is_there(session, request, now):
                return UploadView(id="", digest=request.digest, size=request.size, offset=request.size, complete=True)
            same = select(UploadRow).where(UploadRow.token == token, UploadRow.digest == request.digest)
            row = session.scalar(same)
            if row is None or row.size != request.size:
                if row is not None:
                    session.delete(row)
                    session.flush()
                self._require_room(session, request.size, token)
                row = UploadRow(id=secrets.token_hex(16), token=token, digest=request.digest, size=request.size)
                row.created_at = now
                session.add(row)
            row.touched_at = now
        if row.size == 0:
            with self.receive(row.id, token, 0) as receiver:
                return self.finish(receiver, now)
        return self._view(row)

    def view(self, upload: str, token: str) -> UploadView:
        """How far a session is. Raises NotFoundError: it is finished, expired, or another token's."""
        with self._database.read() as session:
            return self._view(self._find(session, upload, token))

    @contextmanager
    def receive(self, upload: str, token: str, offset: int) -> Iterator[UploadWriter]:
        """The session's writer, at `offset`; when the block ends, what came is durable.

        Raises:
            NotFoundError: no such session of this token.
            OffsetMismatchError: the next byte is another one.
            BusyError, ShareError: another request writes to it, or too many write at once.
        """
        with self._database.read() as session:
            row = self._find(session, upload, token)
        with self._claimed(upload, token):
            digest = self._hash_of(upload)
            if offset != digest.offset:
                raise OffsetMismatchError(
                    f"The next byte of this upload is {digest.offset}, not {offset}.", digest.offset
                )
            with self._blobs.begin(upload, row.digest) as writer:
                receiver = UploadWriter(row, writer, digest)
                self._active[upload] = receiver
                try:
                    yield receiver
                finally:
                    self._keep(upload, receiver)

    def finish(self, receiver: UploadWriter, now: datetime) -> UploadView:
        """Within `receive`: say how far it is, and show the blob when it is whole.

        Raises:
            DigestMismatchError: these are not the announced bytes; they are gone, the session starts at 0.
            NotFoundError: somebody has cancelled the session.
        """
        row = receiver.row
        receiver.save()
        if receiver.missing:
            with self._database.write() as session:
                self._find(session, row.id, row.token).touched_at = now
            return self._view(row)
        came = DIGEST_PREFIX + receiver.hash.sha.hexdigest()
        if came != row.digest:
            self._forget(row.id)
            raise DigestMismatchError(f"The bytes that came are {came}, announced was {row.digest}; send them again.")
        with self._database.write() as session:  # the sweep runs in such a transaction too: it cannot come between
            self._find(session, row.id, row.token)
            self._hashes.pop(row.id, None)
            self._blobs.complete(row.id, row.digest)
            session.merge(BlobRow(digest=row.digest, size=row.size, used_at=now, verified_at=now, damaged_at=None))
            session.execute(delete(UploadRow).where(UploadRow.id == row.id))
        if self._checks.known_damaged:
            self._checks.refresh()
        return UploadView(id=row.id, digest=row.digest, size=row.size, offset=row.size, complete=True)

    def cancel(self, upload: str, token: str | None) -> None:
        """End a session and drop its bytes; those that a request is sending, when it notices. Raises NotFoundError.

        `token`: whose it must be. None: an administrator asks, for anybody's.
        """
        with self._database.write() as session:
            session.delete(self._find(session, upload, token))
        with self._lock:
            if upload in self._active:
                if (receiver := self._active[upload]) is not None:
                    receiver.cancelled = True
                return  # the request drops them at its end; after a kill, the sweep does
        self._forget(upload)

    def page(self, token: str | None, after: str, limit: int) -> list[OpenUpload]:
        """Up to `limit` sessions after that id, of one token or of all."""
        query = select(UploadRow).where(UploadRow.id > after).order_by(UploadRow.id).limit(limit)
        with self._database.read() as session:
            rows = session.scalars(query if token is None else query.where(UploadRow.token == token)).all()
        return [
            OpenUpload(
                id=row.id,
                caller=row.token,
                digest=row.digest,
                size=row.size,
                offset=self._received(row.id),
                began_at=row.created_at,
                touched_at=row.touched_at,
                expires_at=row.touched_at + self._limits.ttl,
                sending=row.id in self._active,
            )
            for row in rows
        ]

    def sweep(self, now: datetime) -> int:
        """Remove sessions that got nothing for the time to live, and uploads that no session has; how many.

        Raises:
            BusyError: a client came to use one of them at this moment; the next sweep goes on.
        """
        removed = 0
        with self._database.read() as session:
            stale = session.scalars(select(UploadRow.id).where(UploadRow.touched_at < now - self._limits.ttl)).all()
            known = set(session.scalars(select(UploadRow.id)).all())
        for upload in (*stale, *(upload for upload in self._blobs.uploads() if upload not in known)):
            if upload not in self._active:
                removed += self._remove_stale(upload, now)
        return removed

    def _remove_stale(self, upload: str, now: datetime) -> bool:
        with self._claimed(upload, None), self._database.write() as session:
            row = session.get(UploadRow, upload)
            if row is not None:
                if row.touched_at >= now - self._limits.ttl:
                    return False
                session.delete(row)
                session.flush()
            self._forget(upload)
            return True

    def _is_there(self, session: Session, request: UploadRequest, now: datetime) -> bool:
        """Also takes in a blob whose row was lost between its rename and the commit."""
        size = self._blobs.size_of(request.digest)
        if size is None:
            return False
        if size != request.size:
            raise InvalidError(f"{request.digest} has {size} bytes, not {request.size}.")
        session.merge(BlobRow(digest=request.digest, size=size, used_at=now))
        return True

    def _require_room(self, session: Session, size: int, token: str) -> None:
        mine = self._count(session, UploadRow.token == token)
        if mine >= (most := part_of(self._limits.open_sessions, self._limits.share)):
            text = f"{mine} uploads of yours are open; {most} are the most. Finish or cancel one first."
            raise self._shares.refused("uploads", token, text)
        if self._count(session) >= self._limits.open_sessions:
            raise BusyError(f"{self._limits.open_sessions} uploads are open; finish or cancel one first.")
        free = self._blobs.free_bytes()
        if free is None:
            return
        free, held = free - self._limits.disk_reserve, self._held(session)
        if size > free - held:
            raise StorageFullError(
                f"The blob has {size} bytes and the registry's disk has room for {max(free - held, 0)}: "
                f"{max(free, 0)} are free beside the reserve, and {held} of them are held for uploads that are open."
            )

    def _count(self, session: Session, *which: ColumnElement[bool]) -> int:
        return session.scalar(select(func.count()).select_from(UploadRow).where(*which)) or 0

    def _held(self, session: Session) -> int:
        """Bytes that the open sessions have still to receive."""
        rows = session.execute(select(UploadRow.id, UploadRow.size)).all()
        return sum(max(0, size - self._received(upload)) for upload, size in rows)

    def _received(self, upload: str) -> int:
        try:
            return self._blobs.offset(upload)
        except (RegistryError, OSError):
            return 0  # nothing came yet; or it was completed meanwhile, or its disk fails, which other checks say

    def _find(self, session: Session, upload: str, token: str | None) -> UploadRow:
        row = session.get(UploadRow, upload)
        if row is None or (token is not None and row.token != token):
            raise NotFoundError(GONE)
        return row

    def _view(self, row: UploadRow) -> UploadView:
        known = self._hashes.get(row.id)
        offset = known.durable if known is not None else self._blobs.offset(row.id)
        expires = row.touched_at + self._limits.ttl
        return UploadView(id=row.id, digest=row.digest, size=row.size, offset=offset, expires_at=expires)

    @contextmanager
    def _claimed(self, upload: str, token: str | None) -> Iterator[None]:
        """For the one who writes to it. `token` None: the sweep, which takes no place of a writer."""
        with self._lock:
            if upload in self._active:
                raise BusyError("Another request writes to this upload; ask for the offset again in a moment.")
            lack = self._writers.take(token) if token is not None else None
            if lack is Lack.OWN and token is not None:
                text = f"{self._writers.each} uploads of yours are being received, the most; try again in a moment."
                raise self._shares.refused("uploads", token, text, 1)
            if lack is Lack.ALL:
                raise BusyError(f"{self._limits.writers} uploads are being received; try again in a moment.")
            self._active[upload] = None
        try:
            yield
        finally:
            with self._lock:
                receiver = self._active.pop(upload)
                if token is not None:
                    self._writers.give(token)
            if receiver is not None and receiver.cancelled:
                self._forget(upload)

    def _hash_of(self, upload: str) -> _Hash:
        """The hash so far: from memory, or made again from what the store has."""
        known = self._hashes.get(upload)
        if known is not None:
            return known
        made = _Hash()
        with closing(self._blobs.received(upload)) as reader:
            while data := reader.read_at(made.offset, CHUNK):
                made.update(data)
        made.durable = made.offset
        self._hashes[upload] = made
        return made

    def _keep(self, upload: str, receiver: UploadWriter) -> None:
        """At the end of a request, however it ended: durable, and hash and store agree; else it goes."""
        if upload not in self._hashes:
            return  # finished or dropped
        try:
            receiver.save()
        except TemporaryError:
            self._forget(upload)  # after a failed save nobody knows what is there
            raise
        if receiver.hash.offset != receiver.writer.offset:
            self._hashes.pop(upload, None)

    def _forget(self, upload: str) -> None:
        self._hashes.pop(upload, None)
        self._blobs.abort(upload)
