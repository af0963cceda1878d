"""Two blob stores in memory, which pass the same conformance suite as the real ones: one that is as simple as can be,
with a capacity, and one that may do no more than object storage does."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

from registry.contracts.wire import Digest
from registry.errors import NotFoundError, StorageFullError


class _Reader:
    def __init__(self, read: Callable[[], bytes], size: int, stamp: str) -> None:
        self._read = read
        self.size = size
        self.stamp = stamp

    def read_at(self, offset: int, length: int) -> bytes:
        return self._read()[offset : offset + length]

    def close(self) -> None:
        self._read = bytes


class _Writer:
    """Opens and closes nothing."""

    def __enter__(self) -> _Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class _MemoryWriter(_Writer):
    def __init__(self, store: MemoryBlobs, upload: str) -> None:
        self._store = store
        self._upload = upload

    def __enter__(self) -> _MemoryWriter:
        return self

    @property
    def offset(self) -> int:
        return self._store.offset(self._upload)

    def append(self, data: bytes | bytearray | memoryview) -> None:
        with self._store.lock:
            if self._store.used() + len(data) > self._store.capacity:
                raise StorageFullError("The memory store is full.")
            self._store.received_data[self._upload] += bytes(data)

    def save(self) -> None:
        pass


class MemoryBlobs:
    """See `registry.blobs.base.BlobStore`; `capacity` is in bytes."""

    def __init__(self, capacity: int = 1 << 30) -> None:
        self.capacity = capacity
        self.lock = threading.Lock()
        self.received_data: dict[str, bytes] = {}
        self._blobs: dict[Digest, bytes] = {}

    def used(self) -> int:
        return sum(map(len, self.received_data.values())) + sum(map(len, self._blobs.values()))

    def size_of(self, digest: Digest) -> int | None:
        return len(self._blobs[digest]) if digest in self._blobs else None

    def open(self, digest: Digest) -> _Reader:
        if digest not in self._blobs:
            raise NotFoundError(f"There is no blob {digest}.")
        return _reader(self._blobs[digest])

    def delete(self, digest: Digest) -> None:
        self._blobs.pop(digest, None)

    def set_aside(self, digest: Digest) -> None:
        self._blobs.pop(digest, None)

    def older_than(self, seconds: float) -> Iterator[Digest]:
        return iter(sorted(self._blobs) if seconds <= 0 else [])

    def begin(self, upload: str, digest: Digest) -> _MemoryWriter:
        self.received_data.setdefault(upload, b"")
        return _MemoryWriter(self, upload)

    def offset(self, upload: str) -> int:
        return len(self.received_data.get(upload, b""))

    def received(self, upload: str) -> _Reader:
        return _reader(self.received_data.get(upload, b""))

    def complete(self, upload: str, digest: Digest) -> None:
        if upload not in self.received_data:
            raise NotFoundError(f"There is no upload {upload!r}.")
        self._blobs[digest] = self.received_data.pop(upload)

    def abort(self, upload: str) -> None:
        self.received_data.pop(upload, None)

    def uploads(self) -> Iterator[str]:
        return iter(sorted(self.received_data))

    def free_bytes(self) -> int:
        return self.capacity - self.used()

    def probe(self) -> None:
        if self.used() >= self.capacity:
            raise StorageFullError("The memory store is full.")

    def close(self) -> None:
        pass


def _reader(data: bytes) -> _Reader:
    return _Reader(lambda: data, len(data), str(hash(data)))


PIECE = 1000
"""Bytes of the smallest piece of a multipart upload but the last; S3 asks for 5 MiB."""


class ObjectService:
    """What object storage offers: whole objects, and multipart uploads that become one when they are completed. Nothing
    of an upload can be read, a piece that was sent stays as it is, and only the last one may be short."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._uploads: dict[int, tuple[str, list[bytes]]] = {}
        self._numbers = itertools.count(1)

    def create(self, key: str) -> int:
        number = next(self._numbers)
        self._uploads[number] = (key, [])
        return number

    def send(self, number: int, piece: bytes) -> None:
        self._uploads[number][1].append(piece)

    def sent(self, number: int) -> int:
        return sum(map(len, self._uploads[number][1]))

    def complete(self, number: int) -> None:
        key, pieces = self._uploads.pop(number)
        assert all(len(piece) >= PIECE for piece in pieces[:-1]), "EntityTooSmall"
        self.objects[key] = b"".join(pieces)

    def abort(self, number: int) -> None:
        del self._uploads[number]


class _ObjectWriter(_Writer):
    """Gathers whole pieces; what is left of one is saved as an object of its own."""

    def __init__(self, store: ObjectBlobs, upload: str, number: int) -> None:
        self._store = store
        self._upload = upload
        self._number = number
        self._tail = store.service.objects.get(store.tail(upload), b"")

    def __enter__(self) -> _ObjectWriter:
        return self

    @property
    def offset(self) -> int:
        return self._store.service.sent(self._number) + len(self._tail)

    def append(self, data: bytes | bytearray | memoryview) -> None:
        self._tail += bytes(data)

    def save(self) -> None:
        service, tail = self._store.service, self._store.tail(self._upload)
        whole = len(self._tail) // PIECE * PIECE
        if whole:
            service.send(self._number, self._tail[:whole])
            self._tail = self._tail[whole:]
        service.objects[tail] = self._tail


class ObjectBlobs:
    """A store over `ObjectService`, as one over S3 would be: blobs are objects, an upload goes straight to the key of
    its blob, and one that has to be hashed again begins anew, because it cannot be read. It knows no capacity."""

    def __init__(self, service: ObjectService | None = None) -> None:
        self.service = service or ObjectService()
        self._begun: dict[str, tuple[int, Digest]] = {}

    def tail(self, upload: str) -> str:
        return f"uploads/{upload}"

    def size_of(self, digest: Digest) -> int | None:
        found = self.service.objects.get(digest)
        return None if found is None else len(found)

    def open(self, digest: Digest) -> _Reader:
        data = self._read(digest)
        return _Reader(lambda: self._read(digest), len(data), str(hash(data)))

    def _read(self, digest: Digest) -> bytes:
        if digest not in self.service.objects:
            raise NotFoundError(f"There is no blob {digest}.")
        return self.service.objects[digest]

    def delete(self, digest: Digest) -> None:
        self.service.objects.pop(digest, None)

    def set_aside(self, digest: Digest) -> None:
        if (found := self.service.objects.pop(digest, None)) is not None:
            self.service.objects[f"damaged/{digest}"] = found

    def older_than(self, seconds: float) -> Iterator[Digest]:
        return iter(sorted(key for key in self.service.objects if key.startswith("sha256:")) if seconds <= 0 else [])

    def begin(self, upload: str, digest: Digest) -> _ObjectWriter:
        if upload not in self._begun:
            self._begun[upload] = (self.service.create(digest), digest)
            self.service.objects[self.tail(upload)] = b""
        return _ObjectWriter(self, upload, self._begun[upload][0])

    def offset(self, upload: str) -> int:
        if upload not in self._begun:
            return 0
        return self.service.sent(self._begun[upload][0]) + len(self.service.objects[self.tail(upload)])

    def received(self, upload: str) -> _Reader:
        self.abort(upload)
        return _reader(b"")

    def complete(self, upload: str, digest: Digest) -> None:
        if upload not in self._begun:
            raise NotFoundError(f"There is no upload {upload!r}.")
        number, begun_for = self._begun.pop(upload)
        assert begun_for == digest
        self.service.send(number, self.service.objects.pop(self.tail(upload)))
        self.service.complete(number)

    def abort(self, upload: str) -> None:
        if upload in self._begun:
            self.service.abort(self._begun.pop(upload)[0])
        self.service.objects.pop(self.tail(upload), None)

    def uploads(self) -> Iterator[str]:
        return iter(sorted(key.partition("/")[2] for key in self.service.objects if key.startswith("uploads/")))

    def free_bytes(self) -> None:
        return None

    def probe(self) -> None:
        self.service.objects["probe"] = b"probe"
        del self.service.objects["probe"]

    def close(self) -> None:
        pass
