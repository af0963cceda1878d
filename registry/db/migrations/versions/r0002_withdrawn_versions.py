"""Versions that were yanked or taken back by a rollout; what a rollout and its devices went back for."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None

AT = sa.DateTime(timezone=True)
NAME = sa.String(length=64)
WHO = sa.String(length=80)


def upgrade() -> None:
    """Forward."""
    _optional("versions", "yanked_at", AT)
    _text("versions", "yanked_by", WHO)
    _text("versions", "yanked_reason", sa.Text())
    _optional("versions", "taken_back_at", AT)
    _text("versions", "taken_back_by", NAME)
    _text("versions", "taken_back_code", NAME)
    _text("versions", "taken_back_text", sa.Text())
    _optional("rollouts", "went_back_at", AT)
    _text("rollouts", "went_back_by", WHO)
    _text("rollouts", "went_back_code", NAME)
    _text("rollouts", "went_back_text", sa.Text())
    _optional("rollout_actions", "left_wave", sa.Integer())
    _optional("rollout_actions", "left_state", sa.String(length=32))
    _text("rollout_actions", "left_code", NAME)
    _text("rollout_actions", "left_message", sa.Text())


def _optional(table: str, name: str, kind: sa.types.TypeEngine[Any]) -> None:
    op.add_column(table, sa.Column(name, kind, nullable=True))


def _text(table: str, name: str, kind: sa.types.TypeEngine[Any]) -> None:
    op.add_column(table, sa.Column(name, kind, server_default="", nullable=False))
