"""The fleet over time: sums of answered requests, and samples of how many devices are there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0005"
down_revision = "r0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "answer_sums",
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("part", sa.String(length=16), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        *(sa.Column(f"bucket_{number}", sa.BigInteger(), nullable=False) for number in range(16)),
        sa.PrimaryKeyConstraint("step", "start", "model", "version", "code", "part", name=op.f("pk_answer_sums")),
    )
    op.create_table(
        "connection_samples",
        sa.Column("start", sa.BigInteger(), autoincrement=False, nullable=False),
        *(
            sa.Column(state, sa.Integer(), nullable=False)
            for state in ("online", "late", "http_only", "silent", "offline", "never_seen")
        ),
        sa.PrimaryKeyConstraint("start", name=op.f("pk_connection_samples")),
    )
