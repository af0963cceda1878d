"""Temporary folders that a process owns as long as it lives: what a killed one leaves, the next one removes.

The owner holds a lock on a file in its folder, which the kernel releases however the owner ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

LOCK = "owner.lock"
STRANGE_S = 24 * 3600.0
"""A folder without that file was made by something else, which may still use it until it is so old."""


class OwnedFolder:
    """A new folder below `parent`, after those that dead processes of this user left there are removed."""

    def __init__(self, prefix: str, parent: Path) -> None:
        with _one_at_a_time(prefix, parent):
            _remove_left(prefix, parent)
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            self._lock = (self.path / LOCK).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """With all that it holds."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


@contextmanager
def _one_at_a_time(prefix: str, parent: Path) -> Iterator[None]:
    """Nobody looks at a folder between its making and its lock."""
    with (parent / f".{prefix}{os.geteuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_left(prefix: str, parent: Path) -> None:
    for folder in parent.glob(f"{prefix}*"):
        with suppress(FileNotFoundError):
            if folder.is_dir() and folder.stat().st_uid == os.geteuid() and _is_left(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    try:
        lock = (folder / LOCK).open("r+")
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime > STRANGE_S
    with lock:
        return _is_free(lock)


def _is_free(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
