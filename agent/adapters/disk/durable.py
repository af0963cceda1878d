"""Changes to the disk that a cut of power leaves whole: a name has its old content or its new one, or is not there.

Written beside it, synced, renamed, and the folder synced: a rename is on disk only when its folder is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from agent.errors import TransientError
from registry.contracts.codes import DeploymentCode


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Readers see the old bytes or the new ones; the new ones are on disk when this returns.

    Raises:
        TransientError: the disk refuses.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.unlink(missing_ok=True)  # of a write that a cut of power ended; it may be read-only already
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        fresh.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # a read-only disk refuses this, too
            fresh.unlink(missing_ok=True)
        raise disk_error(error, path) from error


def sync_folder(folder: Path) -> None:
    """A rename is on disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(path: Path) -> None:
    """Removes a file or a tree; a tree is renamed first, so that half of it is never seen under its name.

    Raises:
        TransientError: the disk refuses.
    """
    with disk_errors(path):
        if path.is_dir() and not path.is_symlink():
            doomed = path.with_name(path.name + ".gone")
            if doomed != path and not doomed.exists():
                path.rename(doomed)
                path = doomed
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Every error of the operating system on our own file becomes a TransientError."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: Path) -> TransientError:
    """What an operating-system error on our own files means."""
    full = error.errno in (28, 122)  # ENOSPC, EDQUOT
    code = DeploymentCode.INSUFFICIENT_DISK if full else DeploymentCode.DISK_ERROR
    return TransientError(code, f"{path}: {error.strerror or error}")
