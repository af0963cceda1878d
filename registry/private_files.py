"""A folder that its owner alone may look into, and files in it that are written whole or not at all."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

log = logging.getLogger(__name__)


def make_private(folder: Path) -> None:
    """Makes it with mode 0700, or takes the rights of others away where it is there.

    Left as it is, with a line in the log: what somebody else owns, folders for everybody (sticky, as /tmp), the root
    and a home. Raises OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    mode = stat.S_IMODE(found.st_mode)
    if not mode & 0o077:
        return
    shared = found.st_uid != os.geteuid() or mode & stat.S_ISVTX or folder.resolve() in (Path("/"), Path.home())
    if not shared:
        try:
            folder.chmod(0o700)
        except OSError as error:
            log.warning("the folder %s has mode %04o, and stays so: %s", folder, mode, error.strerror)
            return
        log.warning("the folder %s had mode %04o: others on this host could use it; it has 0700 now", folder, mode)
        return
    log.warning("the folder %s has mode %04o: others on this host may use it; give it to its owner alone", folder, mode)


def write_whole(file: Path, content: bytes, mode: int = 0o600, *, replace: bool = True) -> None:
    """The file has this content and these rights, or what it had before; on disk when this returns.

    Raises:
        FileExistsError: it is there, and `replace` is False.
        OSError: it cannot be written.
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}.new")
    beside.unlink(missing_ok=True)
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as out:
            os.fchmod(out.fileno(), mode)
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        if replace:
            beside.rename(file)
        else:
            os.link(beside, file)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """What was made, renamed or removed in it is on disk. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
