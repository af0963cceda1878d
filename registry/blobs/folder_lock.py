"""One process per folder: whoever has it open keeps every other registry out of it."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from registry.errors import InvalidError, StartError


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
