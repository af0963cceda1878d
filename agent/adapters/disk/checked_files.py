"""Is what lies on the disk still what was published? A name says nothing: type, links, size and every byte do."""

from __future__ import annotations

import errno
import hashlib
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from agent.adapters.disk.part_file import BUFFER
from agent.errors import StepCancelledError
from registry.contracts.catalogue.manifest import FileRef, Variant
from registry.contracts.digest import hex_of

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
