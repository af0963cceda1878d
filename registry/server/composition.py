"""The composition root: builds every service once, from the settings. Nothing else constructs services.

To add a service: a field of `Services`, a line in `build_services`. To let something run beside the
requests (a scheduler, the MQTT bridge): a context manager in `app.BACKGROUND`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from registry.config import ADMIN_TOKEN_FILE, RegistryConfig
from registry.db.engine import Database
from registry.db.migrations.upgrade import upgrade
from registry.services.access import Access
from registry.services.tokens import Tokens, read_token

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Services:
    """Everything a route or a background part may use."""

    config: RegistryConfig
    clock: Clock
    """Now, in UTC."""
    database: Database
    access: Access
    tokens: Tokens


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
    database = Database(config.effective_database_url)
    upgrade(database.engine)
    access = Access(database)
    tokens = Tokens(database, access)
    tokens.ensure_admin(given_admin_token(config), config.data_dir / ADMIN_TOKEN_FILE, clock())
    return Services(config=config, clock=clock, database=database, access=access, tokens=tokens)


def given_admin_token(config: RegistryConfig) -> str | None:
    """The administrator's token that the settings name; None when they name none."""
    if config.admin_token is not None:
        return config.admin_token.get_secret_value()
    return read_token(config.admin_token_file) if config.admin_token_file is not None else None
