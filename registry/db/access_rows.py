"""Changes that wait for a second person."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.base import DIGEST, NAME, WHO, Base, Numbered


class ChangeRow(Numbered, Base):
    """One change. INVARIANT: `done` only in the transaction that made the change."""

    __tablename__ = "changes"
    __table_args__ = (Index("ix_changes_digest", "digest", "state"),)

    public: Mapped[str] = mapped_column(NAME, unique=True)
    """Its id on the wire."""
    kind: Mapped[str] = mapped_column(NAME)
    subject: Mapped[str] = mapped_column(String(256))
    details: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(DIGEST)
    """Of kind, subject, details and who asked: the same request again has the same."""
    asked_by: Mapped[str] = mapped_column(WHO)
    asked_person: Mapped[str] = mapped_column(NAME)
    asked_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    state: Mapped[str] = mapped_column(NAME, index=True)
    decided_by: Mapped[str] = mapped_column(WHO, default="")
    decided_at: Mapped[datetime | None]
    note: Mapped[str] = mapped_column(Text, default="")
