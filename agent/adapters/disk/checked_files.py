"""Is what lies on the disk still what was published, or what a backend compiled from it? A name says nothing: type,
links, size and every byte do.

A corrupted engine computes something else, and nothing in it says so. After a load the agent writes down name, size,
time of change and SHA-256 of every file in the engines' folder; before the next load it removes what is another, so
that the backend compiles it again. What a backend wrote after that (for a new shape of input) is not known, so it goes,
too: it costs a compilation, never a wrong answer.
"""

from __future__ import annotations

import errno
import hashlib
import json
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from agent.adapters.disk.durable import delete, write_atomically
from agent.adapters.disk.part_file import BUFFER
from agent.errors import StepCancelledError, TransientError
from registry.contracts.catalogue.manifest import FileRef, Variant
from registry.contracts.wire import hex_of

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
        write_atomically(folder.with_name(FILE), json.dumps(_sums(folder)).encode())
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


def _sums(folder: Path) -> Sums:
    return {path.relative_to(folder).as_posix(): _sum(path) for path in folder.rglob("*") if path.is_file()}


def _sum(path: Path) -> tuple[int, int, str]:
    digest = hashlib.sha256()
    status = path.stat()
    with path.open("rb", buffering=0) as stream:
        while part := stream.read(BUFFER):
            digest.update(part)
    return status.st_size, status.st_mtime_ns, digest.hexdigest()


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
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BUFFER))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
            if cancel.is_set():
                raise StepCancelledError
            pace(count)
    return digest.hexdigest() == hex_of(ref.digest)
