"""Validation sets, and what versions scored on them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.base import Base, BigId

NAME = String(64)
DIGEST = String(71)


class DatasetRow(Base):
    """A published validation set: one blob, never changed. The database refuses to lose the blob."""

    __tablename__ = "datasets"

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    digest: Mapped[str] = mapped_column(DIGEST, ForeignKey("blobs.digest"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    items: Mapped[int]
    tensors: Mapped[list[Any]]
    """As `TensorSpec` says them, the leading dimension is the items."""
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(80), default="")


class EvaluationRow(Base):
    """The newest score of one variant of a version on one device, on one validation set, by one metric."""

    __tablename__ = "evaluations"
    __table_args__ = (
        UniqueConstraint(
            "version_id", "variant", "device", "dataset", "metric", name="uq_evaluations_version_id_variant_device"
        ),
    )

    number: Mapped[int] = mapped_column(BigId, primary_key=True)
    """Rises: the order of lists."""
    version_id: Mapped[int] = mapped_column(BigId, ForeignKey("versions.id", ondelete="CASCADE"), index=True)
    variant: Mapped[str] = mapped_column(NAME)
    device: Mapped[str] = mapped_column(NAME, default="")
    """Empty: on the machine of whoever evaluated it."""
    dataset: Mapped[str] = mapped_column(DIGEST)
    """The blob of the validation set; its name may be gone, or given to another."""
    dataset_name: Mapped[str] = mapped_column(NAME)
    metric: Mapped[str] = mapped_column(NAME)
    score: Mapped[float]
    items: Mapped[int]
    backend: Mapped[str] = mapped_column(String(128))
    seconds: Mapped[float]
    measured_at: Mapped[datetime]
    measured_by: Mapped[str] = mapped_column(String(80), default="")
