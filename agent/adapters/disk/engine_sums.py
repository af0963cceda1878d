"""What a backend compiled from an artifact is believed only while it is what the backend wrote.

A corrupted engine computes something else, and nothing in it says so. After a load the agent writes down name, size,
time of change and SHA-256 of every file in the engines' folder; before the next load it removes what is another, so
that the backend compiles it again. What a backend wrote after that (for a new shape of input) is not known, so it goes,
too: it costs a compilation, never a wrong answer.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from agent.adapters.disk.durable import delete, write_atomically
from agent.adapters.disk.part_file import BUFFER
from agent.errors import TransientError

FILE = "engines.json"
"""Beside the folder."""
MAX_BYTES = 1 << 20
Sums = dict[str, tuple[int, int, str]]
"""By the path below the folder: bytes, time of change in nanoseconds, SHA-256."""


def keep_sums(folder: Path) -> None:
    """Writes down what is there. Where the disk refuses, everything is compiled again at the next load."""
    if not folder.is_dir():
        return
    try:
        write_atomically(folder.with_name(FILE), json.dumps(_sums(folder)).encode())
    except (OSError, TransientError):
        return


def drop_changed(folder: Path) -> list[str]:
    """Removes what is not as it was written down; gives the names of those that are damaged: other bytes, same time.

    Raises:
        TransientError: the disk refuses to remove it.
    """
    if not folder.is_dir():
        return []
    known, damaged = _known(folder), []
    for path in [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]:
        name = path.relative_to(folder).as_posix()
        try:
            now = None if path.is_symlink() else _sum(path)
        except OSError:
            now = None
        before = known.get(name)
        if now is None or before is None or now != before:
            delete(path)
            if before is not None and (now is None or now[:2] == before[:2]):
                damaged.append(name)
    return damaged


def _known(folder: Path) -> Sums:
    try:
        with folder.with_name(FILE).open("rb") as stream:
            found = json.loads(stream.read(MAX_BYTES))
        return {str(name): (int(size), int(at), str(digest)) for name, (size, at, digest) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _sums(folder: Path) -> Sums:
    return {path.relative_to(folder).as_posix(): _sum(path) for path in folder.rglob("*") if path.is_file()}


def _sum(path: Path) -> tuple[int, int, str]:
    digest = hashlib.sha256()
    status = path.stat()
    with path.open("rb", buffering=0) as stream:
        while part := stream.read(BUFFER):
            digest.update(part)
    return status.st_size, status.st_mtime_ns, digest.hexdigest()
