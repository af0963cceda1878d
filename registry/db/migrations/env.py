"""Alembic's entry: runs the migrations on the connection that `upgrade` hands over."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from registry.db.base import UtcDateTime
from registry.db.schema import METADATA


def _plain_types(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    """A migration says what lies in the database and imports nothing of ours, so that it stays true for ever."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite alters a table by copying it
    render_item=_plain_types,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
