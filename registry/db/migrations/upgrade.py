"""Brings a database to the newest schema. `registry serve` does so at every start.

RULE: a migration that was released never changes; a change of the schema is a new one, `rNNNN`, after the last. There
is no way back but the backup. Databases from before the first release are refused.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from registry.systemd import long_step

log = logging.getLogger(__name__)


def alembic_config() -> Config:
    """Alembic's settings; there is no alembic.ini, so that the package is all one needs."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


PRERELEASE = frozenset(f"{number:04d}" for number in range(1, 14))
"""The schemas from before the first release."""


class UnknownSchemaError(Exception):
    """The database has a schema that none of the migrations makes: of PRERELEASE, or a newer program has used it."""

    def __init__(self, revision: str) -> None:
        super().__init__(f"unknown schema {revision}")
        self.revision = revision


def upgrade(engine: Engine) -> None:
    """Run the migrations that are missing, in one transaction where the database can; without any, write nothing.

    Where systemd starts the registry, it waits meanwhile.

    Raises:
        UnknownSchemaError: nothing was changed.
        sqlalchemy.exc.DBAPIError: the database cannot be used.
    """
    config = alembic_config()
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current == scripts.get_current_head():
        return
    if current is not None and current not in known:
        raise UnknownSchemaError(current)
    head, began = scripts.get_current_head(), time.monotonic()
    if current is not None:
        log.info("the database goes from schema %s to %s; large tables take minutes", current, head)
    with long_step(f"Bringing the database to schema {head}"), engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))  # a large table takes as long as it takes
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    if current is not None:
        log.info("the database has schema %s after %.0f s", head, time.monotonic() - began)
