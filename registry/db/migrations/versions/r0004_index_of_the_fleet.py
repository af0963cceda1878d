"""The index of the fleet: in which state each device is. Its rows are made at the next start."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"
branch_labels = None
depends_on = None
_BYTEWISE = sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql")


def upgrade() -> None:
    """Forward."""

    op.create_table(
        "device_index",
        sa.Column("device_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "name", sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"), nullable=False
        ),
        sa.Column("connection", sa.String(length=16), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("behind", sa.Boolean(), nullable=False),
        sa.Column("hardware", sa.String(length=64), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_device_index_device_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_device_index")),
    )
    with op.batch_alter_table("device_index", schema=None) as batch_op:
        batch_op.create_index(
            "ix_device_index_behind",
            ["name"],
            unique=False,
            sqlite_where=sa.text("behind = 1"),
            postgresql_where=sa.text("behind"),
        )
        batch_op.create_index("ix_device_index_changed_at", ["changed_at", "device_id"], unique=False)
        batch_op.create_index(
            "ix_device_index_code",
            ["code", "name"],
            unique=False,
            sqlite_where=sa.text("code <> ''"),
            postgresql_where=sa.text("code <> ''"),
        )
        batch_op.create_index("ix_device_index_connection", ["connection", "name"], unique=False)
        batch_op.create_index(
            "ix_device_index_deadline",
            ["deadline", "device_id"],
            unique=False,
            sqlite_where=sa.text("deadline IS NOT NULL"),
            postgresql_where=sa.text("deadline IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_device_index_failing",
            ["name"],
            unique=False,
            sqlite_where=sa.text("code <> ''"),
            postgresql_where=sa.text("code <> ''"),
        )
        batch_op.create_index("ix_device_index_seen_at", ["seen_at", "device_id"], unique=False)
        batch_op.create_index("ix_device_index_state", ["state", "name"], unique=False)
        batch_op.create_index("uq_device_index_name", ["name"], unique=True)

    op.create_table(
        "device_slots",
        sa.Column("device_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column(
            "name", sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"), nullable=False
        ),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("desired", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("behind", sa.Boolean(), nullable=False),
        sa.Column("hardware", sa.String(length=64), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_device_slots_device_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device_id", "model", name=op.f("pk_device_slots")),
    )
    with op.batch_alter_table("device_slots", schema=None) as batch_op:
        batch_op.create_index(
            "ix_device_slots_counts", ["model", "version", "desired", "state", "hardware"], unique=False
        )
        batch_op.create_index("ix_device_slots_model", ["model", "name"], unique=False)
        batch_op.create_index("ix_device_slots_serves", ["model", "version", "name"], unique=False)

    with op.batch_alter_table("registry_state", schema=None) as batch_op:
        batch_op.add_column(sa.Column("index_rules", sa.Integer(), server_default="0", nullable=False))
