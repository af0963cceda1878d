"""Blobs as files: `sha256/ab/abcd…`, uploads as `parts/<name>`, on one filesystem so that a rename is atomic.
What was found damaged lies in `damaged/abcd…`, and may be removed at any time.

An upload is fsynced, then renamed, then the folder is fsynced: a file under a blob's name is whole after any crash.
Files are 0600, folders 0700. Names come from checked digests and names of uploads only.
One process has a folder: while it is open every other registry is kept out of it.
A disk that fails or takes no writes is logged once when it begins and once when it ends.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote_to_bytes, urlsplit

from registry.contracts.wire import DIGEST_PREFIX, Digest, hex_of
from registry.core.outage import Outage
from registry.errors import (
    InvalidError,
    NotFoundError,
    ReadOnlyError,
    StartError,
    StorageFailedError,
    StorageFullError,
    TemporaryError,
)


def lock_folder(folder: Path, setting: str) -> int:
    """Lock a folder that is there; closing the descriptor that comes back, or the end of the process, unlocks it.

    Raises:
        StartError: `data_folder`, it cannot be used.
        InvalidError: another registry works in it.
    """
    file = folder / "lock"
    try:
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS or not file.exists():
            raise StartError("data_folder", f"The folder {folder} cannot be used: {error.strerror}.") from error
        lock = os.open(file, os.O_RDONLY | os.O_CLOEXEC)  # can be locked all the same
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise InvalidError(f"Another registry works in {folder}; stop it, or choose another {setting}.") from None
    return lock


log = logging.getLogger(__name__)
_UPLOAD = re.compile(r"[0-9a-z]{1,64}\Z")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class FileReader:
    """A blob or an upload, open. See `BlobReader`."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._stat = os.fstat(self._file)

    @property
    def size(self) -> int:
        """Bytes when it was opened."""
        return self._stat.st_size

    @property
    def stamp(self) -> str:
        """See the port."""
        found = self._stat
        return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"

    def read_at(self, offset: int, length: int) -> bytes:
        """See the port."""
        with _translated():
            data = os.pread(self._file, length, offset)
            while len(data) < length and (more := os.pread(self._file, length - len(data), offset + len(data))):
                data += more
        return data

    def close(self) -> None:
        """See the port."""
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)


class FileWriter:
    """An upload, open for appending. See `BlobWriter`."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._offset = os.fstat(self._file).st_size

    @property
    def offset(self) -> int:
        """See the port."""
        return self._offset

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """See the port."""
        rest = memoryview(data)
        at = self._offset
        try:
            while rest:
                written = os.pwrite(self._file, rest, at)
                at += written
                rest = rest[written:]
        except OSError as error:
            with _translated():
                os.ftruncate(self._file, self._offset)
            raise _as_refusal(error) from error
        self._offset = at

    def save(self) -> None:
        """See the port."""
        with _translated():
            os.fsync(self._file)

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


class FilesystemBlobs:
    """The store below one folder. See `BlobStore`.

    Args:
        root: The folder; made when it is not there.

    Raises:
        TemporaryError: it cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self._blobs = root / "sha256"
        self._parts = root / "parts"
        self._damaged = root / "damaged"
        self._outage = Outage("the blobs: writing")
        self._lock: int | None = None
        with _translated():
            for folder in (root, self._blobs, self._parts):
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    _sync_folder(folder.parent)

    @classmethod
    def at(cls, url: str) -> FilesystemBlobs:
        """The store of a URL like `file:///var/lib/modelfleet/blobs`, for this process only. Raises as `open_blobs`."""
        parts = urlsplit(url)
        folder = Path(os.fsdecode(unquote_to_bytes(parts.path)))
        if parts.netloc or parts.query or parts.fragment or not folder.is_absolute():
            raise StartError("blobs_url", "A folder as blobs_url looks like file:///var/lib/modelfleet/blobs.")
        made = cls(folder)
        made._lock = lock_folder(folder, "blobs_url")
        return made

    def close(self) -> None:
        """See the port. Lets another process have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def size_of(self, digest: Digest) -> int | None:
        """See the port."""
        with suppress(NotFoundError), _translated("absent"):
            return self._path(digest).stat().st_size
        return None

    def open(self, digest: Digest) -> FileReader:
        """See the port."""
        with _translated(f"There is no blob {digest}."):
            return FileReader(self._path(digest))

    def delete(self, digest: Digest) -> None:
        """See the port."""
        with self._writing():
            self._path(digest).unlink(missing_ok=True)

    def set_aside(self, digest: Digest) -> None:
        """See the port."""
        with self._writing():
            self._damaged.mkdir(mode=0o700, exist_ok=True)
            with suppress(FileNotFoundError):
                self._path(digest).rename(self._damaged / hex_of(digest))
            _sync_folder(self._path(digest).parent)

    def older_than(self, seconds: float) -> Iterator[Digest]:
        """See the port. A file's time is that of its last rename or write."""
        before = time.time() - seconds
        with _translated():
            for folder in sorted(self._blobs.iterdir()):
                for file in sorted(folder.iterdir()):
                    if re.fullmatch("[0-9a-f]{64}", file.name) and file.stat().st_ctime <= before:
                        yield DIGEST_PREFIX + file.name

    def offset(self, upload: str) -> int:
        """See the port."""
        with suppress(NotFoundError), _translated("absent"):
            return self._part(upload).stat().st_size
        return 0

    def begin(self, upload: str, digest: Digest) -> FileWriter:
        """See the port."""
        path = self._part(upload)
        with self._writing():
            is_new = not path.exists()
            writer = FileWriter(path)
            if is_new:
                _sync_folder(self._parts)
        return writer

    def received(self, upload: str) -> FileReader:
        """See the port."""
        with suppress(NotFoundError), _translated("absent"):
            return FileReader(self._part(upload))
        return FileReader(Path(os.devnull))

    def complete(self, upload: str, digest: Digest) -> None:
        """See the port."""
        target = self._path(digest)
        with self._writing(f"There is no upload {upload!r}."):
            if not target.parent.is_dir():
                target.parent.mkdir(mode=0o700, exist_ok=True)
                _sync_folder(self._blobs)
            self._part(upload).rename(target)
            _sync_folder(target.parent)

    def abort(self, upload: str) -> None:
        """See the port."""
        with self._writing():
            self._part(upload).unlink(missing_ok=True)

    def uploads(self) -> Iterator[str]:
        """See the port."""
        with _translated():
            return iter(sorted(file.name for file in self._parts.iterdir() if _UPLOAD.match(file.name)))

    def free_bytes(self) -> int:
        """See the port."""
        with _translated():
            return shutil.disk_usage(self._parts).free

    def probe(self) -> None:
        """See the port."""
        file = self._parts / ".probe"
        with self._writing():
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.pwrite(descriptor, b"probe", 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
                file.unlink(missing_ok=True)

    @contextmanager
    def _writing(self, missing: str = "") -> Iterator[None]:
        try:
            with _translated(missing):
                yield
        except TemporaryError as error:
            line = self._outage.failed(error.code, error.message, time.monotonic())
            if line:
                log.warning("%s", line)
            raise
        line = self._outage.worked(time.monotonic())
        if line:
            log.warning("%s", line)

    def _path(self, digest: Digest) -> Path:
        name = hex_of(digest)
        return self._blobs / name[:2] / name

    def _part(self, upload: str) -> Path:
        if not _UPLOAD.match(upload):
            raise ValueError(f"not the name of an upload: {upload[:80]!r}")
        return self._parts / upload


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(missing: str = "") -> Iterator[None]:
    """`missing`: what is said when the file is not there."""
    try:
        yield
    except FileNotFoundError as error:
        if not missing:
            raise StorageFailedError(
                "A folder of the registry's blobs is not there; its operator has to look whether its disk is mounted."
            ) from error
        raise NotFoundError(missing) from None
    except OSError as error:
        raise _as_refusal(error) from error


def _as_refusal(error: OSError) -> TemporaryError:
    if error.errno in _NO_ROOM:
        return StorageFullError("The disk with the registry's blobs is full; free some room and go on.")
    if error.errno == errno.EROFS:
        return ReadOnlyError("The disk with the registry's blobs takes no writes at the moment; try again later.")
    reason = errno.errorcode.get(error.errno or 0, "unknown")
    return StorageFailedError(f"The disk with the registry's blobs fails ({reason}); its operator has to look.")
