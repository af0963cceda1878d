"""Signed metadata; until when published documents are signed; and epochs that devices know."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0007"
down_revision = "r0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "trust_metadata",
        sa.Column("repository", sa.String(length=16), nullable=False),
        sa.Column("role", sa.String(length=80), nullable=False),
        sa.Column("version", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("repository", "role", "version", name=op.f("pk_trust_metadata")),
    )
    with op.batch_alter_table("desired") as batch:
        batch.add_column(sa.Column("published_until", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("registry_state") as batch:
        batch.add_column(sa.Column("epoch_told", sa.DateTime(timezone=True), nullable=True))
