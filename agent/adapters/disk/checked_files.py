"""Is what lies on the disk what was published, or what a backend compiled from it? A name says nothing: type, links,
size and every byte do.

A blob on its way to disk grows as `<hex>.part`, and every byte is hashed on the way. Reading from the network and
writing happen in the caller's thread, hashing in a second one over the same four buffers (hashlib and the socket both
release the GIL), so memory does not grow with the size of the blob. What a killed agent left behind is hashed again and
continued. Nothing here gets its final name: see `ArtifactCache`.

A corrupted engine computes something else, and nothing in it says so. After a load the agent writes down name, size,
time of change and SHA-256 of every file in the engines' folder; before the next load it removes what is another, so
that the backend compiles it again. What a backend wrote after that (for a new shape of input) is not known, so it goes,
too: it costs a compilation, never a wrong answer.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

from agent.adapters.disk.durable import delete, disk_error, disk_errors, write_atomically
from agent.errors import StepCancelledError, TransientError
from registry.contracts.catalogue.manifest import FileRef, Variant
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
        with disk_errors(self.path):
            try:
                self._file = os.open(self.path, OPEN | os.O_RDWR | os.O_CREAT, 0o600)
            except PermissionError:  # `check` closed it for writing, and what was to follow failed
                _make_writable(self.path)
                self._file = os.open(self.path, OPEN | os.O_RDWR)
            if os.fstat(self._file).st_size > self.ref.size:
                self.restart()
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
        with disk_errors(self.path):
            while count := os.preadv(self._file, [buffer], self.offset):
                self._hash.update(buffer[:count])
                self.offset += count
                if cancel.is_set():
                    raise StepCancelledError

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
        hashing: deque[Future[None]] = deque()
        buffers = cycle(self._buffers)
        with ThreadPoolExecutor(1, thread_name_prefix="hash") as hasher:  # at its end everything is hashed
            while self.offset < self.ref.size:
                if cancel.is_set():
                    raise StepCancelledError
                if len(hashing) == BUFFERS:
                    hashing.popleft().result()  # of what was in the buffer that is filled next
                buffer = next(buffers)
                count = self._fill(fill, buffer[: self.ref.size - self.offset])
                if count == 0:
                    break
                self._write(buffer[:count])
                hashing.append(hasher.submit(self._hash.update, buffer[:count]))

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
        with disk_errors(self.path):
            os.fchmod(self._file, 0o440)
            os.fsync(self._file)

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


def _make_writable(path: Path) -> None:
    file = os.open(path, OPEN | os.O_RDONLY)
    try:
        os.fchmod(file, 0o600)
    finally:
        os.close(file)


FILE = "engines.json"
"""Beside the folder."""
MAX_BYTES = 1 << 20
Sums = dict[str, tuple[int, int, str]]
"""By the path below the folder: bytes, time of change in nanoseconds, SHA-256."""


def keep_sums(folder: Path) -> None:
    """Writes down what is there. Where the disk refuses, everything is compiled again at the next load."""
    if not folder.is_dir():
        return
    try:
        sums = {path.relative_to(folder).as_posix(): _sum(path) for path in folder.rglob("*") if path.is_file()}
        write_atomically(folder.with_name(FILE), json.dumps(sums).encode())
    except (OSError, TransientError):
        return


def drop_changed(folder: Path) -> list[str]:
    """Removes what is not as it was written down; gives the names of those that are damaged: other bytes, same time.

    Raises:
        TransientError: the disk refuses to remove it.
    """
    if not folder.is_dir():
        return []
    known, damaged = _known(folder), []
    for path in [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]:
        name = path.relative_to(folder).as_posix()
        try:
            now = None if path.is_symlink() else _sum(path)
        except OSError:
            now = None
        before = known.get(name)
        if now is None or before is None or now != before:
            delete(path)
            if before is not None and (now is None or now[:2] == before[:2]):
                damaged.append(name)
    return damaged


def _known(folder: Path) -> Sums:
    try:
        with folder.with_name(FILE).open("rb") as stream:
            found = json.loads(stream.read(MAX_BYTES))
        return {str(name): (int(size), int(at), str(digest)) for name, (size, at, digest) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _sum(path: Path) -> tuple[int, int, str]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, _sha256(path)


UNREADABLE = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ELOOP})
"""A bad sector, a file system that finds its own checksum wrong, a link in place of the file."""
Pace = Callable[[int], None]
"""Told how many bytes were read; may wait."""


def unexpected_files(folder: Path, variant: Variant) -> list[str]:
    """What lies below `folder` and is none of the variant's files; links to folders are among them."""
    wanted = {ref.path for ref in variant.files}
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted({path.relative_to(folder).as_posix() for path in found} - wanted)


def faulty(folder: Path, variant: Variant, cancel: threading.Event, pace: Pace = lambda _: None) -> list[FileRef]:
    """The files that are missing, odd, unreadable, or other bytes than the manifest says. Every byte is read.

    Raises:
        StepCancelledError: `cancel` was set.
        OSError: the disk refuses for a reason that says nothing about one file.
    """
    return [ref for ref in variant.files if not is_right(folder / ref.path, ref, cancel, pace)]


def is_right(path: Path, ref: FileRef, cancel: threading.Event, pace: Pace = lambda _: None) -> bool:
    """A plain file that can be read, every byte of it as its digest says. Raises as `faulty`."""
    try:
        return is_plain(path, ref.size) and is_hashed(path, ref, cancel, pace)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in UNREADABLE:
            return False
        raise


def is_plain(path: Path, size: int) -> bool:
    """A regular file of that size with one link: a hard link could be changed from elsewhere."""
    try:
        facts = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and facts.st_size == size


def is_hashed(path: Path, ref: FileRef, cancel: threading.Event, pace: Pace = lambda _: None) -> bool:
    """Does every byte agree with the file's digest? `pace` is called with the number of bytes just read.

    Raises:
        StepCancelledError: `cancel` was set.
    """

    def go_on(count: int) -> None:
        if cancel.is_set():
            raise StepCancelledError
        pace(count)

    return _sha256(path, go_on) == hex_of(ref.digest)


def _sha256(path: Path, told: Callable[[int], None] = lambda _: None) -> str:
    """`told`: called after each read with its number of bytes."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BUFFER))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
            told(count)
    return digest.hexdigest()
