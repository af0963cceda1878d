"""Publishing, reading and deleting versions. A version appears whole or not at all, and never changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from registry.blobs.base import BlobStore
from registry.contracts.api.versions import PublishAnswer, VariantView, VersionView
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.wire import Digest, digest_of
from registry.core.differences import differences
from registry.core.publish_checks import publish_faults, publish_warnings
from registry.db.catalog_rows import AliasRow, BlobRow, ModelRow, VersionBlobRow, VersionRow
from registry.db.engine import Database
from registry.db.fleet_rows import DeploymentRow, DeviceRow, DeviceStateRow
from registry.db.job_rows import EarlierManifestRow
from registry.db.rollout_rows import ActionRow, RolloutRow
from registry.errors import ConflictError, InUseError, InvalidError
from registry.services.catalogue.coverage import known_classes
from registry.services.catalogue.golden import require_golden
from registry.services.queries import found
from registry.services.rollouts.store import OPEN
from registry.services.views import exact_version, find_model, find_version, manifest_body, version_views

MAX_USERS_NAMED = 20


class Versions:
    """The use cases of versions. Thread-safe."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    def publish(self, manifest: Manifest, by: str, now: datetime) -> PublishAnswer:
        """Make a version visible, with all its blobs; the answer warns of what no device can run.

        Raises:
            InvalidError: a blob is missing or has another size, the golden vectors are not of this model or a
                variant did not pass them, or the name is an alias.
            ConflictError: the version is published with other content; `errors` names each difference.
        """
        answer = self._publish(manifest, by, now)
        with self._database.read() as session:
            warnings = publish_warnings(manifest, known_classes(session))
        return answer.model_copy(update={"warnings": warnings})

    def _publish(self, manifest: Manifest, by: str, now: datetime) -> PublishAnswer:
        body = manifest.canonical()
        with self._database.write() as session:
            row = exact_version(session, manifest.model, manifest.version)
            if row is None:
                self._require_blobs(session, manifest, now)
                require_golden(self._blobs, manifest)
                if faults := publish_faults(manifest):
                    raise InvalidError("What it says of its variants is not enough, or does not go together.", faults)
                _require_no_alias(session, manifest)
                row = _insert(session, manifest, body, by, now)
                return PublishAnswer(version=version_views(session, [row])[0], created=True)
            if digest_of(body) in _manifests(session, row):
                return PublishAnswer(version=version_views(session, [row])[0], created=False)
            raise ConflictError(
                f"{manifest.model} {manifest.version} is published with other content, and versions never change; "
                "publish it under another version.",
                differences(json.loads(row.body), json.loads(body)),
            )

    def get(self, model: str, name: str) -> VersionView:
        """A version by its name or an alias. Raises NotFoundError."""
        with self._database.read() as session:
            return version_views(session, [find_version(session, model, name)])[0]

    def page(self, model: str, before: int, limit: int) -> list[tuple[int, VersionView]]:
        """Up to `limit` versions with their row ids, newest first, of those older than id `before`."""
        with self._database.read() as session:
            find_model(session, model)
            query = select(VersionRow).where(VersionRow.model == model, VersionRow.id < before)
            rows = session.scalars(query.order_by(VersionRow.id.desc()).limit(limit)).all()
            return list(zip([row.id for row in rows], version_views(session, rows), strict=True))

    def manifest_bytes(self, digest: str) -> bytes:
        """The canonical bytes of a published manifest. Raises NotFoundError."""
        with self._database.read() as session:
            return found(manifest_body(session, digest), f"There is no manifest {digest}.")

    def delete(self, model: str, version: str, now: datetime) -> None:
        """Remove a version; the sweep collects blobs that no other version needs.

        Raises:
            NotFoundError: no version of exactly this name.
            InUseError: an alias points to it, or a device is assigned to it or serves it.
        """
        with self._database.write() as session:
            row = found(exact_version(session, model, version), f"Model {model!r} has no version {version!r}.")
            delete_rows(session, [row], now)

    def _require_blobs(self, session: Session, manifest: Manifest, now: datetime) -> None:
        """All there with the right size, in the database and in the store; the sweep cannot run meanwhile."""
        faults = missing_blobs(session, self._blobs, manifest.blobs(), now)
        if faults:
            raise InvalidError(
                "Blobs are missing or are not what the manifest says; upload them first.", tuple(faults.values())
            )


def missing_blobs(session: Session, blobs: BlobStore, wanted: Mapping[Digest, int], now: datetime) -> dict[Digest, str]:
    """Those of the wanted (digest to size) that are not there, in the database and in the store, each with why.

    What is there counts as used: the sweep leaves it for its grace time.
    """
    sizes: dict[str, int | None] = {}
    for row in session.scalars(select(BlobRow).where(BlobRow.digest.in_(wanted))):
        sizes[row.digest] = row.size if blobs.size_of(row.digest) == row.size else None
        row.used_at = now
    return {
        digest: f"{digest}: "
        + (f"has {sizes[digest]} bytes, the manifest says {size}" if sizes.get(digest) else "not here")
        for digest, size in wanted.items()
        if sizes.get(digest) != size
    }


def delete_rows(session: Session, rows: list[VersionRow], now: datetime) -> None:
    """Remove versions within the caller's transaction. Raises InUseError."""
    users = [user for row in rows for user in _users(session, row)]
    if users:
        raise InUseError("It is in use.", tuple(users))
    for row in rows:
        names = select(VersionBlobRow.digest).where(VersionBlobRow.version_id == row.id)
        session.execute(update(BlobRow).where(BlobRow.digest.in_(names)).values(used_at=now))
        session.delete(row)
    session.flush()


def _users(session: Session, row: VersionRow) -> list[str]:
    aliased = select(AliasRow.alias).where(AliasRow.model == row.model, AliasRow.version == row.version)
    assigned = (
        select(DeviceRow.name)
        .join(DeploymentRow)
        .where(DeploymentRow.model == row.model, DeploymentRow.version == row.version)
    )
    said = or_(*(DeviceStateRow.reported.contains(manifest) for manifest in _manifests(session, row)))
    serving = select(DeviceRow.name).join(DeviceStateRow).where(said)
    what = f"{row.model} {row.version}"
    rolling = select(RolloutRow.public).where(RolloutRow.state.in_(OPEN), RolloutRow.model == row.model)
    brings = rolling.where(RolloutRow.version == row.version)
    follows = (DeploymentRow.rollout == RolloutRow.public) & (DeploymentRow.device_id == ActionRow.device_id)
    returns = (
        select(RolloutRow.public)
        .join(ActionRow)
        .outerjoin(DeploymentRow, follows & (DeploymentRow.model == RolloutRow.model))
        .where(RolloutRow.model == row.model, ActionRow.previous_version == row.version)
        .where(RolloutRow.state.in_(OPEN) | DeploymentRow.device_id.is_not(None))  # a rollback is legal after the end
        .distinct()
    )
    return [
        *(f"rollout {rollout} brings {what}" for rollout in session.scalars(brings.limit(MAX_USERS_NAMED))),
        *(f"rollout {rollout} may return to {what}" for rollout in session.scalars(returns.limit(MAX_USERS_NAMED))),
        *(f"alias {alias} points to {what}" for alias in session.scalars(aliased)),
        *(f"device {name} is assigned to {what}" for name in session.scalars(assigned.limit(MAX_USERS_NAMED))),
        *(f"device {name} reports that it serves {what}" for name in session.scalars(serving.limit(MAX_USERS_NAMED))),
    ]


def _manifests(session: Session, row: VersionRow) -> list[Digest]:
    """All that the version ever had, newest first."""
    query = select(EarlierManifestRow.manifest).where(EarlierManifestRow.version_id == row.id)
    return [row.manifest, *session.scalars(query.order_by(EarlierManifestRow.revision.desc()))]


def _require_no_alias(session: Session, manifest: Manifest) -> None:
    alias = session.get(AliasRow, (manifest.model, manifest.version))
    if alias is not None and alias.version is not None:
        raise InvalidError(f"{manifest.version!r} is an alias of {manifest.model!r}; a version needs another name.")


def variant_views(manifest: Manifest) -> list[Any]:
    """The summaries that are stored with a version."""
    views = (
        VariantView(name=v.name, format=v.format, target=v.target, size=v.size, digest=v.canonical_digest())
        for v in manifest.variants
    )
    return [view.model_dump(mode="json") for view in views]


def _insert(session: Session, manifest: Manifest, body: bytes, by: str, now: datetime) -> VersionRow:
    if session.get(ModelRow, manifest.model) is None:
        session.add(ModelRow(name=manifest.model, created_at=now))
        session.flush()
    row = VersionRow(
        model=manifest.model,
        version=manifest.version,
        manifest=digest_of(body),
        body=body,
        variants=variant_views(manifest),
        size=sum(manifest.blobs().values()),
        created_at=now,
        created_by=by,
    )
    session.add(row)
    session.flush()
    session.add_all(VersionBlobRow(version_id=row.id, digest=digest) for digest in manifest.blobs())
    session.flush()
    return row
