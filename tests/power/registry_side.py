"""What a registry writes: parts of uploads, blobs, versions. Each thing is said once it is done."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

from registry.blobs.filesystem import FilesystemBlobs
from registry.contracts.api.uploads import UploadRequest
from registry.contracts.wire import digest_of
from registry.db.engine import open_database
from registry.services.catalogue.uploads import UploadLimits, Uploads
from registry.services.catalogue.versions import Versions
from tests.fakes.registry_simulator import one_file_manifest
from tests.power.agent_side import content

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
LIMITS = UploadLimits(blob_bytes=1 << 30, open_sessions=1000, writers=9, ttl=timedelta(days=1), disk_reserve=0)
TOKEN = "power"
Say = Callable[..., None]


def services(folder: Path) -> tuple[FilesystemBlobs, Uploads, Versions]:
    database = open_database(f"sqlite:///{folder / 'registry.db'}")
    blobs = FilesystemBlobs(folder / "blobs")
    return blobs, Uploads(database, blobs, LIMITS), Versions(database, blobs)


def write(folder: Path, chance: random.Random, say: Say) -> None:
    """Until it is killed."""
    _, uploads, versions = services(folder)
    say("open")
    number = int((folder / "number").read_text()) if (folder / "number").exists() else 0
    while True:
        number += 1
        data = content(number)
        view = uploads.begin(UploadRequest(digest=digest_of(data), size=len(data)), TOKEN, NOW)
        say("upload", number, view.id)
        offset = view.offset
        while not view.complete:
            part = data[offset : offset + chance.randrange(1, 30_000)]
            with uploads.receive(view.id, TOKEN, offset) as receiver:
                receiver.take(part)
                view = uploads.finish(receiver, NOW)
            offset = view.offset
            if not view.complete:
                say("part", number, offset)
        say("blob", number)
        versions.publish(one_file_manifest(data, version=f"{number}.0.0"), "me", NOW)
        say("version", number)


def check(folder: Path, say: Say) -> None:
    """Says everything that is there and right; `wrong` for what is there and not."""
    blobs, uploads, versions = services(folder)
    published = {view.version for _, view in versions.page("lenet", 1 << 62, 10_000)} if has_model(versions) else set()
    number, missing = 0, 0
    while missing < 5:
        number += 1
        data = content(number)
        size = blobs.size_of(digest_of(data))
        if f"{number}.0.0" in published:
            say("version", number)
            if size is None:
                say("wrong", f"version {number} without its blob")
        if size is None:
            missing += 1
            view = uploads.begin(UploadRequest(digest=digest_of(data), size=len(data)), TOKEN, NOW)
            say("part", number, view.offset)
            continue
        missing = 0
        reader = blobs.open(digest_of(data))
        found = hashlib.sha256(reader.read_at(0, size)).hexdigest()
        reader.close()
        say("blob" if digest_of(data).endswith(found) else "wrong", number)
    (folder / "number").write_text(str(number - missing))


def has_model(versions: Versions) -> bool:
    try:
        versions.page("lenet", 1 << 62, 1)
    except Exception:  # noqa: BLE001 - there is none yet
        return False
    return True
