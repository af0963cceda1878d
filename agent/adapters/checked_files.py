"""Is what lies on the disk still what was published? A name says nothing: type, links, size and every byte do."""

from __future__ import annotations

import hashlib
import stat
import threading
from pathlib import Path

from agent.adapters.part_file import BUFFER, StepCancelledError
from registry.contracts.digest import hex_of
from registry.contracts.manifest import FileRef, Variant


def layout_fault(folder: Path, variant: Variant) -> str:
    """What is there that should not be, or the other way round; empty when all is as it should be."""
    wanted = {ref.path: ref.size for ref in variant.files}
    found = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    if found != set(wanted):
        return f"files {sorted(found ^ set(wanted))[:4]} are missing or should not be there"
    odd = [path for path, size in wanted.items() if not is_plain(folder / path, size)]
    return f"{odd[0]} is no plain file of its size with one link" if odd else ""


def content_fault(folder: Path, variant: Variant, cancel: threading.Event) -> str:
    """The first file whose bytes are others than the manifest says; empty when there is none.

    Raises:
        StepCancelledError: `cancel` was set.
    """
    changed = (ref.path for ref in variant.files if not is_hashed(folder / ref.path, ref, cancel))
    return next((f"{path} is not what it was" for path in changed), "")


def is_plain(path: Path, size: int) -> bool:
    """A regular file of that size with one link: a hard link could be changed from elsewhere."""
    try:
        facts = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and facts.st_size == size


def is_hashed(path: Path, ref: FileRef, cancel: threading.Event) -> bool:
    """Does every byte agree with the file's digest?

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
    return digest.hexdigest() == hex_of(ref.digest)
