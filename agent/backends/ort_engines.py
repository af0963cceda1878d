"""The folder in which TensorRT's provider keeps the engines that it built from one artifact, and its bound.

It lies beside the artifact's files, counts as part of the artifact and goes with it.
"""

from __future__ import annotations

import os

from agent.backends.base import BackendError

MAX_BYTES = 8 << 30
"""Engines for shapes, drivers and versions of long ago are dropped first."""


def kept_engines(folder: str, limit: int = MAX_BYTES) -> str:
    """Makes the folder when it is not there, drops the oldest files over the limit, and returns it.

    Raises BackendError(load_failed) when the disk refuses.
    """
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with os.scandir(folder) as entries:
            files = [(entry.stat(follow_symlinks=False), entry.path) for entry in entries]
        total = sum(status.st_size for status, _ in files)
        for status, path in sorted(files, key=lambda file: (file[0].st_mtime, file[1])):
            if total <= limit:
                break
            os.unlink(path)
            total -= status.st_size
    except OSError as error:
        raise BackendError("load_failed", f"no place for TensorRT's engines: {error.strerror}") from None
    return folder
