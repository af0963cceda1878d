"""Files of this host that are to be published: named by digest, and the same bytes from hashing to sending."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from registry.client.errors import ClientError
from registry.contracts.digest import PREFIX, Digest

BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class LocalFile:
    """One file, as it was when it was hashed."""

    path: Path
    digest: Digest
    size: int
    identity: tuple[int, ...]
    """Device, inode, size, modification time: other ones mean other bytes."""

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, still the one that was hashed.

        Raises:
            ClientError: it was replaced or changed since, or cannot be read.
        """
        with _opened(self.path) as file:
            if _identity(file) != self.identity:
                raise ClientError(
                    f"{self.path} changed while it was being published",
                    code="file_changed",
                    hint="Wait until whatever writes it is done, then repeat the command.",
                )
            yield file


def hash_file(path: Path, tell: Callable[[int], None] = lambda _position: None) -> LocalFile:
    """Read a file once and name it.

    Args:
        path: A regular file; a link that the publisher named is followed.
        tell: Told the position in the file.

    Raises:
        ClientError: it cannot be read, or changed while it was read.
    """
    digest = hashlib.sha256()
    buffer = bytearray(BUFFER_BYTES)
    view = memoryview(buffer)
    with _opened(path) as file:
        identity = _identity(file)
        while count := file.readinto(buffer):  # type: ignore[attr-defined]
            digest.update(view[:count])
            tell(file.tell())
        if _identity(file) != identity:
            raise ClientError(f"{path} changed while it was read", code="file_changed", hint="Repeat the command.")
    return LocalFile(path, PREFIX + digest.hexdigest(), identity[2], identity)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not block
    except OSError as error:
        raise ClientError(f"{path} cannot be read: {error.strerror}", code="file_unreadable") from error
    with os.fdopen(handle, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ClientError(f"{path} is not a regular file", code="file_unreadable")
        yield file


def _identity(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
