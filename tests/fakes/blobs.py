"""A blob store in memory. Passes the same conformance suite as the real ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType

from registry.contracts.digest import Digest
from registry.errors import NotFoundError, StorageFullError


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    @property
    def stamp(self) -> str:
        return str(hash(self._data))

    def read_at(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def close(self) -> None:
        self._data = self._data[:]


class _Writer:
    def __init__(self, store: MemoryBlobs, part: str) -> None:
        self._store = store
        self._part = part

    @property
    def offset(self) -> int:
        return self._store.part_size(self._part)

    def append(self, data: bytes | bytearray | memoryview) -> None:
        with self._store.lock:
            if self._store.used() + len(data) > self._store.capacity:
                raise StorageFullError("The memory store is full.")
            self._store.part_data[self._part] = self._store.part_data.get(self._part, b"") + bytes(data)

    def sync(self) -> None:
        self._store.syncs += 1

    def __enter__(self) -> _Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class MemoryBlobs:
    """See `registry.blobs.base.BlobStore`; `capacity` is in bytes."""

    def __init__(self, capacity: int = 1 << 30) -> None:
        self.capacity = capacity
        self.lock = threading.Lock()
        self.part_data: dict[str, bytes] = {}
        self.syncs = 0
        self._blobs: dict[Digest, bytes] = {}

    def used(self) -> int:
        return sum(map(len, self.part_data.values())) + sum(map(len, self._blobs.values()))

    def size_of(self, digest: Digest) -> int | None:
        return len(self._blobs[digest]) if digest in self._blobs else None

    def open(self, digest: Digest) -> _Reader:
        if digest not in self._blobs:
            raise NotFoundError(f"There is no blob {digest}.")
        return _Reader(self._blobs[digest])

    def delete(self, digest: Digest) -> None:
        self._blobs.pop(digest, None)

    def set_aside(self, digest: Digest) -> None:
        self._blobs.pop(digest, None)

    def unused_since(self, seconds: float) -> Iterator[Digest]:
        return iter(sorted(self._blobs) if seconds <= 0 else [])

    def part_size(self, part: str) -> int:
        return len(self.part_data.get(part, b""))

    def append_to(self, part: str) -> _Writer:
        self.part_data.setdefault(part, b"")
        return _Writer(self, part)

    def read_part(self, part: str) -> _Reader:
        if part not in self.part_data:
            raise NotFoundError(f"There is no part {part!r}.")
        return _Reader(self.part_data[part])

    def commit(self, part: str, digest: Digest) -> None:
        if part not in self.part_data:
            raise NotFoundError(f"There is no part {part!r}.")
        self._blobs[digest] = self.part_data.pop(part)

    def discard(self, part: str) -> None:
        self.part_data.pop(part, None)

    def parts(self) -> Iterator[str]:
        return iter(sorted(self.part_data))

    def free_bytes(self) -> int:
        return self.capacity - self.used()

    def probe(self) -> None:
        if self.used() >= self.capacity:
            raise StorageFullError("The memory store is full.")
