"""held devices are found by an index"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
WHERE = {"sqlite_where": sa.text("held = 1"), "postgresql_where": sa.text("held")}


def upgrade() -> None:
    """Forward."""
    with op.batch_alter_table("rollout_actions", schema=None) as batch_op:
        batch_op.create_index("ix_rollout_actions_held", ["rollout_id"], unique=False, **WHERE)


def downgrade() -> None:
    """Back."""
    with op.batch_alter_table("rollout_actions", schema=None) as batch_op:
        batch_op.drop_index("ix_rollout_actions_held", **WHERE)
