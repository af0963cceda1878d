"""A damaged file gives way to one that was made of what is whole in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from agent.adapters.durable import sync_folder

_BESIDE = ("-wal", "-shm")


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
