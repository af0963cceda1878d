"""One-time work of devices, and what a version's manifest was before variants were added to it.

A job that is not over stands in its device's desired document; the row is the truth, the document follows in the
same transaction. A finished job stays for reading until the sweep forgets it.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.base import Base, BigId

NAME = String(64)
DIGEST = String(71)


class JobRow(Base):
    """One job of one device."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_device_id", "device_id", "over"), Index("ix_jobs_over", "over", "expires_at"))

    number: Mapped[int] = mapped_column(BigId, primary_key=True)
    """Rises: the order of lists."""
    id: Mapped[str] = mapped_column(NAME, unique=True)
    device_id: Mapped[int] = mapped_column(BigId, ForeignKey("devices.id", ondelete="CASCADE"))
    model: Mapped[str] = mapped_column(NAME)
    document: Mapped[str] = mapped_column(Text)
    """The `Job`, canonical JSON."""
    status: Mapped[str] = mapped_column(Text)
    """The `JobStatus`, canonical JSON: the newest that the device said, or how the registry ended it."""
    over: Mapped[bool] = mapped_column(default=False)
    """Succeeded, failed or cancelled: never changed again."""
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(80), default="")
    updated_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    """A job that is not over by then has failed."""


class OfferedBlobRow(Base):
    """A blob that a job's device may upload: it stands in the variant that the device offered."""

    __tablename__ = "offered_blobs"

    job: Mapped[int] = mapped_column(BigId, ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True)
    digest: Mapped[str] = mapped_column(DIGEST, primary_key=True, index=True)
    size: Mapped[int] = mapped_column(BigInteger)


class EarlierManifestRow(Base):
    """A manifest that another one extends: its bytes stay to be had by their digest as long as the version is there.

    INVARIANT: only inserted or deleted, never updated.
    """

    __tablename__ = "earlier_manifests"

    manifest: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    version_id: Mapped[int] = mapped_column(BigId, ForeignKey("versions.id", ondelete="CASCADE"), index=True)
    revision: Mapped[int]
    body: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime]
    """When a variant was added to it."""
    created_by: Mapped[str] = mapped_column(String(80), default="")
    """Who added it: the name of a token."""
