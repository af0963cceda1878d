"""What a token may do as grants of roles, until when it works, and who made it.

Tokens of before have no grants: their scope says what they may do, as it did.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0010"
down_revision = "r0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.add_column("tokens", sa.Column("grants", sa.Text(), server_default="", nullable=False))
    op.add_column("tokens", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("tokens", sa.Column("created_by", sa.String(length=80), server_default="", nullable=False))
