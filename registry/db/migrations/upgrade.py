"""Brings a database to the newest schema. `registry serve` does so at every start."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text


def alembic_config() -> Config:
    """Alembic's settings; there is no alembic.ini, so that the package is all one needs."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


class NewerSchemaError(Exception):
    """The database has a schema that none of the migrations makes: a newer program has used it."""

    def __init__(self, revision: str) -> None:
        super().__init__(f"unknown schema {revision}")
        self.revision = revision


def upgrade(engine: Engine) -> None:
    """Run the migrations that are missing, in one transaction where the database can; without any, write nothing.

    Raises:
        NewerSchemaError: nothing was changed.
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
        raise NewerSchemaError(current)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))  # a large table takes as long as it takes
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
