"""Events by code, severity and person; what people did that no other row keeps."""
# ruff: noqa: S608 - SQL of the constants of this file

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0009"
down_revision = "r0008"
branch_labels = None
depends_on = None
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_SEVERITY = """
CASE
    WHEN code IN ('maintenance_window', 'lease', 'metered', 'held') OR (code = '' AND phase <> 'degraded') THEN 0
    WHEN code = '' OR phase IN ('offered', 'deferred', 'downloading', 'verified', 'staged', 'warming', 'shadowing',
        'switching', 'probation') THEN 1
    ELSE 2
END
"""
_WHERES = {
    "ix_events_code": (["code", "id"], "code <> ''"),
    "ix_events_failed": (["id"], "code <> ''"),
    "ix_events_warnings": (["id"], "severity >= 1"),
    "ix_events_errors": (["id"], "severity >= 2"),
}


def upgrade() -> None:
    """Forward."""
    with op.batch_alter_table("events") as batch_op:
        batch_op.add_column(sa.Column("code", sa.String(length=64), server_default="", nullable=False))
        batch_op.add_column(sa.Column("severity", sa.Integer(), server_default="0", nullable=False))
    postgresql = op.get_bind().dialect.name == "postgresql"
    part = "document::json ->> '{}'" if postgresql else "json_extract(document, '$.{}')"
    code, phase = (f"coalesce({part.format(name)}, '')" for name in ("code", "phase"))
    op.execute(f"UPDATE events SET code = {code}")
    op.execute(f"UPDATE events SET severity = {_SEVERITY.replace('phase', phase)}")
    for name, (columns, where) in _WHERES.items():
        op.create_index(name, "events", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
    op.create_index("ix_rollout_history_by", "rollout_history", ["by", "id"])
    op.create_index("ix_alias_moves_by", "alias_moves", ["moved_by", "id"])
    op.create_table(
        "activities",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", sa.String(length=80), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("severity", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=True),
        sa.Column("model", sa.String(length=64), nullable=True),
        sa.Column("version", sa.String(length=64), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_activities")),
    )
    op.create_index("ix_activities_by", "activities", ["by", "id"])
    op.create_index("ix_activities_device", "activities", ["device", "id"])
