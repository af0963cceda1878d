"""Persons behind tokens and rollouts, and changes that wait for a second person.

A token of before counts as a person of its own name, as it did.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0011"
down_revision = "r0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.add_column("tokens", sa.Column("person", sa.String(length=64), server_default="", nullable=False))
    op.add_column("tokens", sa.Column("made_by_person", sa.String(length=64), server_default="", nullable=False))
    op.execute("update tokens set person = name where device is null and length(name) <= 64")
    op.add_column("rollouts", sa.Column("submitted_person", sa.String(length=64), server_default="", nullable=False))
    op.create_table(
        "changes",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("public", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=256), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("asked_by", sa.String(length=80), nullable=False),
        sa.Column("asked_person", sa.String(length=64), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("decided_by", sa.String(length=80), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_changes")),
        sa.UniqueConstraint("public", name=op.f("uq_changes_public")),
    )
    op.create_index("ix_changes_digest", "changes", ["digest", "state"])
    op.create_index(op.f("ix_changes_expires_at"), "changes", ["expires_at"])
    op.create_index(op.f("ix_changes_state"), "changes", ["state"])
