"""The composition root: builds every service once, from the settings. Nothing else constructs services.

To add a service: a field of `Services`, a line in `build_services`. To let something run beside the
requests (a scheduler, the MQTT bridge): a context manager in `app.BACKGROUND`.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from registry.blobs.base import BlobStore
from registry.blobs.filesystem import FilesystemBlobs
from registry.config import ADMIN_TOKEN_FILE, RegistryConfig
from registry.db.engine import Database
from registry.db.migrations.upgrade import upgrade
from registry.errors import InvalidError
from registry.server.fleet import Fleet, build_fleet
from registry.server.readiness import Readiness
from registry.services.access import Access
from registry.services.aliases import Aliases
from registry.services.conversions import Conversions
from registry.services.datasets import Datasets
from registry.services.evaluations import Evaluations
from registry.services.garbage import Garbage
from registry.services.models import Models
from registry.services.parity import ParityTable
from registry.services.tokens import Tokens, read_token
from registry.services.uploads import UploadLimits, Uploads
from registry.services.versions import Versions

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Services:
    """Everything a route or a background part may use."""

    config: RegistryConfig
    clock: Clock
    """Now, in UTC."""
    folder_lock: int
    """Open file of the data folder's lock."""
    database: Database
    blobs: BlobStore
    access: Access
    tokens: Tokens
    uploads: Uploads
    models: Models
    versions: Versions
    aliases: Aliases
    conversions: Conversions
    parity: ParityTable
    datasets: Datasets
    evaluations: Evaluations
    garbage: Garbage
    fleet: Fleet
    readiness: Readiness

    def close(self) -> None:
        """After the last request: close the database, let another process have the folder."""
        self.readiness.close()
        self.database.close()
        os.close(self.folder_lock)


def utc_now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.fromtimestamp(time.time(), tz=timezone.utc)


def build_services(config: RegistryConfig, clock: Clock = utc_now) -> Services:
    """Make the data folder, bring the database up to date, make sure an administrator's token exists.

    Raises:
        OSError: the data folder cannot be made or written.
        RegistryError: a setting is not safe to start with.
    """
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _lock_folder(config.data_dir)
    database = Database(config.effective_database_url)
    upgrade(database.engine)
    blobs = FilesystemBlobs(config.data_dir / "blobs")
    access = Access(database)
    tokens = Tokens(database, access)
    tokens.ensure_admin(given_admin_token(config), config.data_dir / ADMIN_TOKEN_FILE, clock())
    return Services(
        config=config,
        clock=clock,
        folder_lock=lock,
        database=database,
        blobs=blobs,
        access=access,
        tokens=tokens,
        uploads=Uploads(database, blobs, _upload_limits(config)),
        models=Models(database),
        versions=Versions(database, blobs),
        aliases=Aliases(database),
        conversions=Conversions(database, blobs, config.limits.blob_bytes),
        parity=ParityTable(database),
        datasets=Datasets(database, blobs),
        evaluations=Evaluations(database),
        garbage=Garbage(database, blobs, timedelta(seconds=config.limits.blob_grace_s)),
        fleet=build_fleet(config, clock, database, access),
        readiness=Readiness({"database": database.probe, "blobs": blobs.probe}),
    )


def _lock_folder(folder: Path) -> int:
    """One process per folder: upload sessions have one writer, and tokens are remembered. Raises InvalidError."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise InvalidError(f"Another registry works in {folder}; stop it, or choose another data_dir.") from None
    return lock


def _upload_limits(config: RegistryConfig) -> UploadLimits:
    limits = config.limits
    return UploadLimits(
        blob_bytes=limits.blob_bytes,
        open_sessions=limits.open_uploads,
        writers=limits.concurrent_uploads,
        ttl=timedelta(seconds=limits.upload_ttl_s),
        disk_reserve=limits.disk_reserve_bytes,
    )


def given_admin_token(config: RegistryConfig) -> str | None:
    """The administrator's token that the settings name; None when they name none."""
    if config.admin_token is not None:
        return config.admin_token.get_secret_value()
    return read_token(config.admin_token_file) if config.admin_token_file is not None else None
