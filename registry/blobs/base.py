"""The port to whatever holds the blobs: immutable bytes under the name of their digest, and the parts of uploads.

INVARIANT: a blob is whole and durable from the moment it can be seen; it is never seen half.
INVARIANT: a part's durable length never shrinks but by `discard`, and a failed write leaves the part as it was.
A store is thread-safe. One part has one writer at a time; its caller sees to that.

Every call may raise a `TemporaryError`: `StorageFullError`, `ReadOnlyError`, or `StorageFailedError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol

from registry.contracts.digest import Digest


class BlobReader(Protocol):
    """An open blob. It stays readable when the blob is deleted meanwhile. Close it."""

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


class PartWriter(Protocol):
    """Appends to one part. Leaving the `with` block closes it without making anything durable."""

    @property
    def offset(self) -> int:
        """Where the next byte goes."""
        ...

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`, or nothing."""
        ...

    def sync(self) -> None:
        """What was appended is durable when this returns; when it raises, the part can no longer be trusted."""
        ...

    def __enter__(self) -> PartWriter: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BlobStore(Protocol):
    """Blobs and parts. Part names are chosen by the caller: 1 to 64 of `0-9 a-z`."""

    def size_of(self, digest: Digest) -> int | None:
        """Bytes of a blob; None when it is not there."""
        ...

    def open(self, digest: Digest) -> BlobReader:
        """A blob to read. Raises NotFoundError."""
        ...

    def delete(self, digest: Digest) -> None:
        """Remove a blob; nothing happens when it is not there."""
        ...

    def set_aside(self, digest: Digest) -> None:
        """A blob whose bytes are not what its name says is not there any more. The bytes are kept for who wants to
        look, until another copy of it is set aside. Nothing happens when it is not there."""
        ...

    def unused_since(self, seconds: float) -> Iterator[Digest]:
        """Every blob that was stored at least so long ago."""
        ...

    def part_size(self, part: str) -> int:
        """Bytes that a part has; 0 when it was not begun."""
        ...

    def append_to(self, part: str) -> PartWriter:
        """Begin a part, or go on with it."""
        ...

    def read_part(self, part: str) -> BlobReader:
        """The part as it is so far. Raises NotFoundError."""
        ...

    def commit(self, part: str, digest: Digest) -> None:
        """The synced part becomes the blob, atomically and durably. The caller has checked its digest.

        Raises:
            NotFoundError: there is no such part.
        """
        ...

    def discard(self, part: str) -> None:
        """Remove a part; nothing happens when it is not there."""
        ...

    def parts(self) -> Iterator[str]:
        """Every part that was begun and neither committed nor discarded."""
        ...

    def free_bytes(self) -> int:
        """Room for more."""
        ...

    def probe(self) -> None:
        """Write something, make it durable, remove it: what an upload needs."""
        ...
