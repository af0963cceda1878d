"""The catalogue's tables: models, versions, blobs, uploads, aliases, tokens, validation sets and scores on them.

INVARIANT: a row in `blobs` stands for bytes that are whole and fsynced under their final name.
INVARIANT: `alias_moves` are only inserted or deleted, never updated; a version is updated only to a manifest that
extends the one it has, which goes to `earlier_manifests`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.base import DIGEST, NAME, WHO, Base, BigId, Made, Numbered


class ModelRow(Base):
    """A model and its settings. Made by its first version."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    created_at: Mapped[datetime]
    record_results: Mapped[bool] = mapped_column(default=False)
    result_retention_hours: Mapped[int] = mapped_column(default=24)


class VersionRow(Numbered, Made, Base):
    """A published version. The manifest's canonical bytes are loaded only when they are asked for."""

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("model", "version", name="uq_versions_model_version"),)

    model: Mapped[str] = mapped_column(ForeignKey("models.name"))
    version: Mapped[str] = mapped_column(NAME)
    manifest: Mapped[str] = mapped_column(DIGEST, unique=True)
    body: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    variants: Mapped[list[Any]]
    """Summaries, as `VariantView` says them."""
    size: Mapped[int] = mapped_column(BigInteger)
    revision: Mapped[int] = mapped_column(default=0, server_default="0")
    """How often variants were added; the manifests before are in `earlier_manifests`."""
    yanked_at: Mapped[datetime | None]
    """Since when nothing new gets it. None: it may be deployed."""
    yanked_by: Mapped[str] = mapped_column(WHO, default="", server_default="")
    yanked_reason: Mapped[str] = mapped_column(Text, default="", server_default="")
    taken_back_at: Mapped[datetime | None]
    """When a rollout began to take it back. None: none did, or a later one of it ended well."""
    taken_back_by: Mapped[str] = mapped_column(NAME, default="", server_default="")
    """Id of that rollout."""
    taken_back_code: Mapped[str] = mapped_column(NAME, default="", server_default="")
    taken_back_text: Mapped[str] = mapped_column(Text, default="", server_default="")


class EarlierManifestRow(Made, Base):
    """A manifest that another one extends: its bytes stay to be had by their digest as long as the version is there.

    It is made when a variant is added, by whoever adds it. INVARIANT: only inserted or deleted, never updated.
    """

    __tablename__ = "earlier_manifests"

    manifest: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    version_id: Mapped[int] = mapped_column(BigId, ForeignKey("versions.id", ondelete="CASCADE"), index=True)
    revision: Mapped[int]
    body: Mapped[bytes] = mapped_column(LargeBinary)


class BlobRow(Base):
    """A blob that is there. `used_at` rises when somebody relies on it, so that the sweep leaves it."""

    __tablename__ = "blobs"

    digest: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    used_at: Mapped[datetime] = mapped_column(index=True)
    verified_at: Mapped[datetime | None] = mapped_column(index=True)
    """When all of it was last read and had its digest."""
    damaged_at: Mapped[datetime | None]
    """Since when the store's copy is known to be lost or wrong."""


class VersionBlobRow(Base):
    """Which version needs which blob; the database refuses to lose a blob that is named here."""

    __tablename__ = "version_blobs"

    version_id: Mapped[int] = mapped_column(BigId, ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True)
    digest: Mapped[str] = mapped_column(DIGEST, ForeignKey("blobs.digest"), primary_key=True, index=True)


class UploadRow(Base):
    """An upload session of one token for one blob. How far it is, the part's length on disk says, not this row."""

    __tablename__ = "uploads"
    __table_args__ = (UniqueConstraint("token", "digest", name="uq_uploads_token_digest"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    token: Mapped[str] = mapped_column(WHO)
    digest: Mapped[str] = mapped_column(DIGEST)
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    touched_at: Mapped[datetime] = mapped_column(index=True)


class AliasRow(Base):
    """Where an alias points now. `revision` rises by one with each move; `version` None: removed."""

    __tablename__ = "aliases"

    model: Mapped[str] = mapped_column(NAME, primary_key=True)
    alias: Mapped[str] = mapped_column(NAME, primary_key=True)
    version: Mapped[str | None] = mapped_column(NAME)
    revision: Mapped[int]
    moved_at: Mapped[datetime]
    moved_by: Mapped[str] = mapped_column(WHO, default="")


class AliasMoveRow(Numbered, Base):
    """One move of an alias; the history of who pointed it where."""

    __tablename__ = "alias_moves"
    __table_args__ = (
        Index("ix_alias_moves_alias", "model", "alias", "revision", unique=True),
        Index("ix_alias_moves_by", "moved_by", "id"),
    )

    model: Mapped[str] = mapped_column(NAME)
    alias: Mapped[str] = mapped_column(NAME)
    version: Mapped[str | None] = mapped_column(NAME)
    revision: Mapped[int]
    moved_at: Mapped[datetime]
    moved_by: Mapped[str] = mapped_column(WHO, default="")


class TokenRow(Base):
    """A token's hash. A device's credential is the row named `device/<name>`; no other name has a slash."""

    __tablename__ = "tokens"

    name: Mapped[str] = mapped_column(WHO, primary_key=True)
    scope: Mapped[str] = mapped_column(String(16))
    device: Mapped[str | None] = mapped_column(NAME, unique=True)
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    last_used: Mapped[datetime | None]
    grants: Mapped[str] = mapped_column(Text, default="", server_default="")
    """A JSON list of `Grant`; empty: those of the scope."""
    expires_at: Mapped[datetime | None]
    """It works until then. None: until it is revoked."""
    created_by: Mapped[str] = mapped_column(WHO, default="", server_default="")
    person: Mapped[str] = mapped_column(NAME, default="", server_default="")
    """Whose it is. Empty: a program's, or a device's."""
    made_by_person: Mapped[str] = mapped_column(NAME, default="", server_default="")
    """The person behind whoever made it. Empty: none is known."""


class DatasetRow(Made, Base):
    """A published validation set: one blob, never changed. The database refuses to lose the blob."""

    __tablename__ = "datasets"

    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    digest: Mapped[str] = mapped_column(DIGEST, ForeignKey("blobs.digest"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    items: Mapped[int]
    tensors: Mapped[list[Any]]
    """As `TensorSpec` says them, the leading dimension is the items."""


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
    measured_by: Mapped[str] = mapped_column(WHO, default="")
