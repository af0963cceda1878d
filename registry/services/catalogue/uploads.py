"""Upload sessions: the server states the next byte, hashes what comes, and shows the blob only when it is whole.

A session's progress is what the store has of it, so a restart or SIGKILL loses nothing that was acknowledged; the hash
is then made again from what the store reads back. INVARIANT: one writer per session (`_active`).
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

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from registry.blobs.base import BlobStore, BlobWriter
from registry.contracts.api.uploads import UploadRequest, UploadView
from registry.contracts.wire import DIGEST_PREFIX
from registry.db.catalog_rows import BlobRow, UploadRow
from registry.db.engine import Database
from registry.errors import (
    BusyError,
    DigestMismatchError,
    InvalidError,
    NotFoundError,
    OffsetMismatchError,
    StorageFullError,
    TemporaryError,
    TooLargeError,
)
from registry.services.catalogue.blob_upkeep import BlobChecks

CHUNK = 1 << 20
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

    @property
    def missing(self) -> int:
        """Bytes until the blob is whole."""
        return self.row.size - self.writer.offset

    def take(self, data: bytes | bytearray) -> None:
        """Write and hash the next bytes.

        Raises:
            TooLargeError: more than was announced.
            StorageFullError: the disk is full; what came before stays.
        """
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
        self, database: Database, blobs: BlobStore, limits: UploadLimits, checks: BlobChecks | None = None
    ) -> None:
        self._database = database
        self._checks = checks or BlobChecks(database, blobs)
        self._blobs = blobs
        self._limits = limits
        self._lock = threading.Lock()
        self._active: set[str] = set()
        self._hashes: dict[str, _Hash] = {}

    def begin(self, request: UploadRequest, token: str, now: datetime) -> UploadView:
        """A session for the blob; the same one again for the same token; complete when the blob is there, and whole.

        Raises:
            TooLargeError, StorageFullError, BusyError: a limit is reached.
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
                self._require_room(session, request.size)
                if row is not None:
                    session.delete(row)
                    session.flush()
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
            BusyError: another request writes to it, or too many write at once.
        """
        with self._database.read() as session:
            row = self._find(session, upload, token)
        with self._claimed(upload):
            digest = self._hash_of(upload)
            if offset != digest.offset:
                raise OffsetMismatchError(
                    f"The next byte of this upload is {digest.offset}, not {offset}.", digest.offset
                )
            with self._blobs.begin(upload, row.digest) as writer:
                receiver = UploadWriter(row, writer, digest)
                try:
                    yield receiver
                finally:
                    self._keep(upload, receiver)

    def finish(self, receiver: UploadWriter, now: datetime) -> UploadView:
        """Within `receive`: say how far it is, and show the blob when it is whole.

        Raises:
            DigestMismatchError: these are not the announced bytes; they are gone, the session starts at 0.
        """
        row = receiver.row
        receiver.save()
        if receiver.missing:
            with self._database.write() as session:
                session.execute(update(UploadRow).where(UploadRow.id == row.id).values(touched_at=now))
            return self._view(row)
        came = DIGEST_PREFIX + receiver.hash.sha.hexdigest()
        if came != row.digest:
            self._forget(row.id)
            raise DigestMismatchError(f"The bytes that came are {came}, announced was {row.digest}; send them again.")
        self._hashes.pop(row.id, None)
        with self._database.write() as session:  # the sweep runs in such a transaction too: it cannot come between
            self._blobs.complete(row.id, row.digest)
            session.merge(BlobRow(digest=row.digest, size=row.size, used_at=now, verified_at=now, damaged_at=None))
            session.execute(delete(UploadRow).where(UploadRow.id == row.id))
        if self._checks.known_damaged:
            self._checks.refresh()
        return UploadView(id=row.id, digest=row.digest, size=row.size, offset=row.size, complete=True)

    def cancel(self, upload: str, token: str) -> None:
        """End a session and drop its bytes. Raises NotFoundError, BusyError while a request writes to it."""
        with self._claimed(upload), self._database.write() as session:
            session.delete(self._find(session, upload, token))
            session.flush()
            self._forget(upload)

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
        with self._claimed(upload), self._database.write() as session:
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

    def _require_room(self, session: Session, size: int) -> None:
        if (session.scalar(select(func.count()).select_from(UploadRow)) or 0) >= self._limits.open_sessions:
            raise BusyError(f"{self._limits.open_sessions} uploads are open; finish or cancel one first.")
        free = self._blobs.free_bytes()
        if free is not None and size > (free := free - self._limits.disk_reserve):
            raise StorageFullError(f"The blob has {size} bytes and the registry's disk has room for {max(free, 0)}.")

    def _find(self, session: Session, upload: str, token: str) -> UploadRow:
        row = session.get(UploadRow, upload)
        if row is None or row.token != token:
            raise NotFoundError("There is no such upload: it is finished, it expired, or it is another token's.")
        return row

    def _view(self, row: UploadRow) -> UploadView:
        known = self._hashes.get(row.id)
        offset = known.durable if known is not None else self._blobs.offset(row.id)
        expires = row.touched_at + self._limits.ttl
        return UploadView(id=row.id, digest=row.digest, size=row.size, offset=offset, expires_at=expires)

    @contextmanager
    def _claimed(self, upload: str) -> Iterator[None]:
        with self._lock:
            if upload in self._active:
                raise BusyError("Another request writes to this upload; ask for the offset again in a moment.")
            if len(self._active) >= self._limits.writers:
                raise BusyError(f"{self._limits.writers} uploads are being received; try again in a moment.")
            self._active.add(upload)
        try:
            yield
        finally:
            with self._lock:
                self._active.discard(upload)

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
