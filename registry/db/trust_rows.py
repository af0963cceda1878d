"""Signed metadata, as it is served.

INVARIANT: a version of a role is written once and never changed: the primary key refuses a second one, so that of two
processes that sign at the same time one begins again.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.base import Base, BigId


class TrustMetadataRow(Base):
    """One version of one role of a repository."""

    __tablename__ = "trust_metadata"

    repository: Mapped[str] = mapped_column(String(16), primary_key=True)
    role: Mapped[str] = mapped_column(String(80), primary_key=True)
    version: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime]
    made_at: Mapped[datetime]
