"""One blob on its way to disk: `<hex>.part` grows, and every byte is hashed on the way.

Reading from the network and writing happen in the caller's thread, hashing in a second one over the same four
buffers (hashlib and the socket both release the GIL), so memory does not grow with the size of the blob.
What a killed agent left behind is hashed again and continued. Nothing here gets its final name: see `ArtifactCache`.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

from agent.adapters.disk.durable import disk_error
from agent.errors import StepCancelledError, TransientError
from registry.contracts.catalogue.manifest import FileRef
from registry.contracts.codes import DeploymentCode
from registry.contracts.wire import hex_of

BUFFER = 1 << 20
BUFFERS = 4
OPEN = os.O_CLOEXEC | os.O_NOFOLLOW

Fill = Callable[[memoryview], int]
"""Puts the next bytes into the buffer and says how many; 0 at the end."""


class PartFile:
    """Open with `with`; `offset` bytes are there, hashed and known."""

    def __init__(self, folder: Path, ref: FileRef) -> None:
        self.ref = ref
        self.path = folder / (hex_of(ref.digest) + ".part")
        self.offset = 0
        self._file = -1
        self._hash = hashlib.sha256()
        self._buffers = [memoryview(bytearray(BUFFER)) for _ in range(BUFFERS)]

    def __enter__(self) -> PartFile:
        try:
            try:
                self._file = os.open(self.path, OPEN | os.O_RDWR | os.O_CREAT, 0o600)
            except PermissionError:  # `check` closed it for writing, and what was to follow failed
                _make_writable(self.path)
                self._file = os.open(self.path, OPEN | os.O_RDWR)
            if os.fstat(self._file).st_size > self.ref.size:
                self.restart()
        except OSError as error:
            raise disk_error(error, self.path) from error
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def resume(self, cancel: threading.Event) -> None:
        """Hashes what an earlier try left, so that `offset` is where the download goes on.

        Raises:
            StepCancelledError: `cancel` was set.
            TransientError: the disk refuses.
        """
        buffer = self._buffers[0]
        try:
            while count := os.preadv(self._file, [buffer], self.offset):
                self._hash.update(buffer[:count])
                self.offset += count
                if cancel.is_set():
                    raise StepCancelledError
        except OSError as error:
            raise disk_error(error, self.path) from error

    def restart(self) -> None:
        """Throws away what is there."""
        os.ftruncate(self._file, 0)
        self.offset = 0
        self._hash = hashlib.sha256()

    def receive(self, fill: Fill, cancel: threading.Event) -> None:
        """Takes bytes from `fill` until the blob is whole or `fill` says 0; what came is on file either way.

        Raises:
            StepCancelledError: `cancel` was set.
            TransientError: the disk refuses. What `fill` raises passes through.
        """
        free: SimpleQueue[memoryview] = SimpleQueue()
        full: SimpleQueue[tuple[memoryview, int] | None] = SimpleQueue()
        for buffer in self._buffers:
            free.put(buffer)
        hasher = threading.Thread(target=self._hash_all, args=(full, free), name="hash")
        hasher.start()
        try:
            while self.offset < self.ref.size:
                if cancel.is_set():
                    raise StepCancelledError
                buffer = free.get()
                count = self._fill(fill, buffer[: self.ref.size - self.offset])
                if count == 0:
                    break
                self._write(buffer[:count])
                full.put((buffer, count))
        finally:
            full.put(None)
            hasher.join()

    def check(self) -> None:
        """The blob is whole and right, and on disk, when this returns. A wrong one is thrown away.

        Raises:
            TransientError: digest_mismatch, incomplete, or the disk refuses.
        """
        if self.offset != self.ref.size:
            raise TransientError(
                DeploymentCode.REGISTRY_UNREACHABLE,
                f"{self.ref.path}: only {self.offset} of {self.ref.size} bytes came",
            )
        found = self._hash.hexdigest()
        if found != hex_of(self.ref.digest):
            self.restart()
            raise TransientError(
                DeploymentCode.DIGEST_MISMATCH,
                f"{self.ref.path}: what came has sha256 {found}, not {hex_of(self.ref.digest)}; thrown away",
            )
        try:
            os.fchmod(self._file, 0o440)
            os.fsync(self._file)
        except OSError as error:
            raise disk_error(error, self.path) from error

    def _fill(self, fill: Fill, room: memoryview) -> int:
        """A whole buffer where possible: fewer hand-overs. An error keeps what came before it."""
        count = 0
        while count < len(room):
            try:
                more = fill(room[count:])
            except TransientError:
                if count == 0:
                    raise
                break
            if more == 0:
                break
            count += more
        return count

    def _write(self, data: memoryview) -> None:
        start = 0
        try:
            while start < len(data):
                start += os.pwrite(self._file, data[start:], self.offset + start)
        except OSError as error:
            os.ftruncate(self._file, self.offset)
            raise disk_error(error, self.path) from error
        self.offset += len(data)

    def _hash_all(self, full: SimpleQueue[tuple[memoryview, int] | None], free: SimpleQueue[memoryview]) -> None:
        while (item := full.get()) is not None:
            buffer, count = item
            self._hash.update(buffer[:count])
            free.put(buffer)


def _make_writable(path: Path) -> None:
    file = os.open(path, OPEN | os.O_RDONLY)
    try:
        os.fchmod(file, 0o600)
    finally:
        os.close(file)
