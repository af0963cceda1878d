"""The port to whatever holds the blobs: immutable bytes under the name of their digest, and uploads that become blobs.

INVARIANT: a blob is whole and durable from the moment it can be seen; it is never seen half.
INVARIANT: what an upload has saved never shrinks but by `abort`, or by `received` where the store says so.
A store is thread-safe. One upload has one writer at a time; its caller sees to that. A store needs neither files nor
parts of any length: what is appended it may gather until it has as much as it likes to send in one piece.

Every call may raise a `TemporaryError`: `StorageFullError`, `ReadOnlyError`, or `StorageFailedError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol

from registry.contracts.wire import Digest


class BlobReader(Protocol):
    """An open blob. When the blob is deleted meanwhile it stays readable, or raises NotFoundError. Close it."""

    @property
    def size(self) -> int:
        """Bytes of the whole blob."""
        ...

    @property
    def stamp(self) -> str:
        """Changes when the bytes are written again or replaced; corruption on the disk does not change it."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end."""
        ...

    def close(self) -> None:
        """Give it back; again is allowed."""
        ...


class BlobWriter(Protocol):
    """Appends to one upload. Leaving the `with` block closes it without making anything durable."""

    @property
    def offset(self) -> int:
        """Where the next byte goes; the store names it, and the caller goes on there."""
        ...

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Take all of `data`, or raise and take nothing."""
        ...

    def save(self) -> None:
        """What was appended is durable when this returns; when it raises, the upload can no longer be trusted."""
        ...

    def __enter__(self) -> BlobWriter: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BlobStore(Protocol):
    """Blobs and uploads. Names of uploads are chosen by the caller: 1 to 64 of `0-9 a-z`."""

    def size_of(self, digest: Digest) -> int | None:
        """Bytes of a blob; None when it is not there."""
        ...

    def open(self, digest: Digest) -> BlobReader:
        """A blob to read, whole or in ranges. Raises NotFoundError."""
        ...

    def delete(self, digest: Digest) -> None:
        """Remove a blob; nothing happens when it is not there."""
        ...

    def set_aside(self, digest: Digest) -> None:
        """A blob whose bytes are not what its name says is not there any more. The bytes are kept for who wants to
        look, until another copy of it is set aside. Nothing happens when it is not there."""
        ...

    def older_than(self, seconds: float) -> Iterator[Digest]:
        """Every blob that was stored at least so long ago."""
        ...

    def begin(self, upload: str, digest: Digest) -> BlobWriter:
        """Begin an upload of that blob, or go on with it."""
        ...

    def offset(self, upload: str) -> int:
        """Bytes that an upload has; 0 when it was not begun."""
        ...

    def received(self, upload: str) -> BlobReader:
        """What an upload has, for a process that has to hash it again; nothing when it was not begun. A store that
        cannot read it back drops it: the upload then begins again at 0."""
        ...

    def complete(self, upload: str, digest: Digest) -> None:
        """The saved upload becomes the blob that it was begun for, atomically and durably, without being copied. The
        caller has checked its digest.

        Raises:
            NotFoundError: there is no such upload.
        """
        ...

    def abort(self, upload: str) -> None:
        """Remove an upload; nothing happens when it is not there."""
        ...

    def uploads(self) -> Iterator[str]:
        """Every upload that was begun and neither completed nor aborted."""
        ...

    def free_bytes(self) -> int | None:
        """Room for more; None: the store does not know."""
        ...

    def probe(self) -> None:
        """Write something, make it durable, remove it: what an upload needs."""
        ...

    def close(self) -> None:
        """The process needs it no more."""
        ...
