"""Signed metadata on the disk: one file for each repository, in two copies, each replaced whole.

A file has the metadata of one refresh, so that a cut of power leaves the set of before or the one of after, never a
mixture. Its first line is the SHA-256 of the rest: a damaged copy is counted and replaced by the other one. That it was
whole says nothing about who wrote it: who reads it verifies every signature again.

INVARIANT: one process writes: `agent.app.status.locked`. Thread-safe by its user, `TrustedMetadata`.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from agent.adapters.disk.damage import Damage
from agent.adapters.disk.durable import delete, disk_errors, write_atomically
from agent.errors import TransientError
from registry.trust.names import MAX_ROOT_BYTES, MAX_ROOTS, MAX_SNAPSHOT_BYTES, MAX_TARGETS_BYTES

COPIES = ("a", "b")
_NOT_WRITTEN = (ValueError, KeyError, TypeError, AttributeError)
MAX_FILE_BYTES = 2 * (MAX_ROOTS * MAX_ROOT_BYTES // 8 + MAX_SNAPSHOT_BYTES + 4 * MAX_TARGETS_BYTES)
"""A longer file was not written by this program."""


@dataclass
class KeptMetadata:
    """What one repository's file has."""

    anchor: str = ""
    """SHA-256 of the root that the device was given: with another one nothing of this counts."""
    roots: list[bytes] = field(default_factory=list)
    """Those after the anchor, in their order."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Newest metadata by role."""
    models: list[str] = field(default_factory=list)
    """Models whose roles are among the files."""
    floor: datetime | None = None
    """The latest time that was signed."""

    def copy(self) -> KeptMetadata:
        """To be changed apart from this one."""
        return KeptMetadata(self.anchor, list(self.roots), dict(self.files), list(self.models), self.floor)


class MetadataStore:
    """The files `NAME.a.json` and `NAME.b.json` below `folder`."""

    def __init__(self, folder: Path, damage: Damage) -> None:
        self._folder = folder
        self._damage = damage

    def read(self, name: str) -> KeptMetadata:
        """The newest whole copy; empty when there is none."""
        found: list[tuple[int, KeptMetadata, bytes]] = []
        damaged: list[Path] = []
        for copy in COPIES:
            path = self._path(name, copy)
            try:
                data = _bytes_of(path)
                found.append((*_read(data), data))
            except FileNotFoundError:
                continue
            except (OSError, *_NOT_WRITTEN) as error:
                self._damage.note("trust", f"{path.name} is not what was written: {str(error)[:200]}")
                damaged.append(path)
        _number, kept, data = max(found, key=lambda each: each[0], default=(0, KeptMetadata(), b""))
        for path in damaged:
            with suppress(TransientError):  # The disk refuses: it is passed over the next time, too.
                write_atomically(path, data) if data else delete(path)
        return kept

    def write(self, name: str, kept: KeptMetadata) -> None:
        """Replaces both copies, one after the other; the first is on disk before the second begins.

        Raises:
            TransientError: the disk refuses.
        """
        with disk_errors(self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
        data = _written(kept, self._newest(name) + 1)
        for copy in COPIES:
            write_atomically(self._path(name, copy), data)

    def _newest(self, name: str) -> int:
        return max(self._number(name, copy) for copy in COPIES)

    def _number(self, name: str, copy: str) -> int:
        try:
            return _read(_bytes_of(self._path(name, copy)))[0]
        except (OSError, *_NOT_WRITTEN):
            return 0

    def _path(self, name: str, copy: str) -> Path:
        return self._folder / f"{name}.{copy}.json"


def _bytes_of(path: Path) -> bytes:
    """Raises OSError; ValueError: it is longer than anything that is written."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError("it is too long")
    return data


def _written(kept: KeptMetadata, number: int) -> bytes:
    body = json.dumps(
        {
            "number": number,
            "anchor": kept.anchor,
            "roots": [root.decode() for root in kept.roots],
            "files": {role: body.decode() for role, body in kept.files.items()},
            "models": kept.models,
            "floor": kept.floor.isoformat() if kept.floor is not None else None,
        }
    ).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _read(data: bytes) -> tuple[int, KeptMetadata]:
    """Raises ValueError, KeyError, TypeError or AttributeError: it is not what was written."""
    digest, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("its checksum is another one")
    said = json.loads(body)
    floor = said["floor"]
    return int(said["number"]), KeptMetadata(
        anchor=str(said["anchor"]),
        roots=[root.encode() for root in said["roots"]],
        files={str(role): text.encode() for role, text in said["files"].items()},
        models=[str(model) for model in said["models"]],
        floor=datetime.fromisoformat(floor) if floor is not None else None,
    )
