"""A damaged file gives way to one that was made of what is whole in it, and what is no file to one that is."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from agent.adapters.disk.durable import sync_folder

_BESIDE = ("-wal", "-shm")


def make_way(path: Path, aside: Path) -> str:
    """Whatever stands in the place of a database's files and is none, as a folder, a pipe or a link that leads nowhere,
    is set aside; a file whose rights keep its owner out gets them back. Opens nothing: a pipe would never answer.

    Returns:
        What was set aside, for a message; empty when there was nothing.

    Raises:
        OSError: the disk refuses.
    """
    found = [suffix for suffix in ("", *_BESIDE) if _is_no_file(path.with_name(path.name + suffix))]
    for suffix in found:
        there = aside.with_name(aside.name + suffix)
        if there.is_dir() and not there.is_symlink():
            shutil.rmtree(there)
        path.with_name(path.name + suffix).rename(there)
    if found:
        sync_folder(path.parent)
    return ", ".join(f"{path.name}{suffix} was no file" for suffix in found)


def _is_no_file(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return path.is_symlink()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
        raise
    if stat.S_ISREG(mode) and mode & 0o600 != 0o600:
        with contextlib.suppress(OSError):  # another owner's, or a disk that takes no writes
            path.chmod(stat.S_IMODE(mode) | 0o600)
    return not stat.S_ISREG(mode)


def replace_damaged(path: Path, aside: Path, build: Callable[[Path], None]) -> None:
    """`build` makes the new file, closed, under another name; then it takes the place of the old, which is kept as
    `aside`. A kill at any moment leaves the old one or the new one.

    Raises:
        OSError: the disk refuses; what `build` raises passes through.
    """
    fresh = path.with_name(path.name + ".new")
    for suffix in ("", *_BESIDE):
        fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    build(fresh)
    if path.exists():
        aside.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a file system without hard links: nothing is kept to be looked at
            os.link(path, aside)
    for suffix in _BESIDE:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    fresh.replace(path)
    sync_folder(path.parent)
