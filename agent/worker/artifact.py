"""The folder of an artifact as a worker finds it, and the memory that loading leaves behind.

Standard library only, Python 3.9 syntax.
"""

from __future__ import annotations

import ctypes
import os
import stat

from agent.backends.base import BackendError

MAX_FILES = 256
"""Files and folders of an artifact."""


def trim_memory() -> None:
    """Gives back what loading and measuring needed for a while. glibc only; elsewhere there is nothing to call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def check_artifact(directory: str) -> None:
    """Refuses a directory that reaches outside itself: only folders and plain files with a single name.

    A hard link is how a hostile artifact would read a secret through "external data" (a symbolic link is refused by
    ONNX Runtime itself, and here). Raises BackendError(load_failed).
    """
    count = 0
    for folder, folders, files in os.walk(directory, onerror=_unreadable):
        for name in (*folders, *files):
            count += 1
            path = os.path.join(folder, name)
            status = os.lstat(path)
            shown = os.path.relpath(path, directory)
            if count > MAX_FILES:
                raise BackendError("load_failed", f"the artifact has more than {MAX_FILES} files")
            if stat.S_ISDIR(status.st_mode):
                continue
            if not stat.S_ISREG(status.st_mode):
                raise BackendError("load_failed", f"{shown} is not a plain file: an artifact holds nothing else")
            if status.st_nlink != 1:
                raise BackendError("load_failed", f"{shown} is a hard link: it may be a file outside the artifact")


def _unreadable(error: OSError) -> None:
    raise BackendError("load_failed", f"the artifact cannot be read: {error.strerror}") from None
