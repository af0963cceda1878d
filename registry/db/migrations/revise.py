"""`python -m registry.db.migrations.revise "what changes"`: writes the migration from the schema so far to the rows."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from alembic import command
from sqlalchemy import create_engine

from registry.db.migrations.upgrade import alembic_config, upgrade


def revise(message: str, number: str) -> None:
    """Compare a freshly migrated SQLite database with the rows, and write the difference as a new migration."""
    with tempfile.TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{Path(folder) / 'schema.db'}")
        upgrade(engine)
        config = alembic_config()
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.revision(config, message, autogenerate=True, rev_id=number)
        engine.dispose()


if __name__ == "__main__":
    versions = Path(__file__).parent / "versions"
    revise(sys.argv[1], f"r{len(list(versions.glob('r*.py'))) + 1:04d}")
