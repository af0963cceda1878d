"""Versions: published whole or not at all, read, deleted, and extended by variants that are made later.

A version never changes but for added variants, and they extend its manifest: the extended one names the one before in
`extends`, has all its variants as they were, and one more. It becomes the version's newest; the earlier one stays to be
had by its digest, and devices that were told to serve it go on.

| an added variant must | else |
|---|---|
| have the inputs and outputs of the others | invalid |
| be made from a sibling, for hardware that it names, not off in its parity: `registry.core.publish_checks` | invalid |
| from a device: be what its job was to make, once | invalid |
| have a name of its own; the same variant again changes nothing | conflict |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from registry.blobs.base import BlobStore
from registry.contracts.api.versions import PublishAnswer, VariantAnswer, VariantView, VersionView
from registry.contracts.catalogue.manifest import MAX_MANIFEST_BYTES, Manifest, Variant
from registry.contracts.device.deployments import Job, JobKind
from registry.contracts.fit.platforms import Platform
from registry.contracts.golden_vectors import check_cases, read_cases
from registry.contracts.tensor_file import TensorFileError, header_end
from registry.contracts.wire import Digest, digest_of
from registry.core.differences import differences
from registry.core.publish_checks import added_faults, job_faults, publish_faults, publish_warnings
from registry.db.catalog_rows import AliasRow, BlobRow, EarlierManifestRow, ModelRow, VersionBlobRow, VersionRow
from registry.db.engine import Database
from registry.db.fleet_rows import DeploymentRow, DeviceRow, DeviceStateRow, OfferedBlobRow
from registry.db.rollout_rows import ActionRow, RolloutRow
from registry.errors import ConflictError, ForbiddenError, InUseError, InvalidError, TooLargeError
from registry.services.catalogue.coverage import known_classes
from registry.services.jobs import find_job
from registry.services.queries import (
    exact_version,
    find_model,
    find_version,
    found,
    manifest_body,
    manifests_of,
    retried,
    version_views,
)
from registry.services.rollouts.store import OPEN
from registry.services.trust.image import ImageRepository

MAX_USERS_NAMED = 20


class Versions:
    """The use cases of versions. Thread-safe."""

    def __init__(self, database: Database, blobs: BlobStore, image: ImageRepository | None = None) -> None:
        """`image`: what signs the catalogue in the same transaction; None: nothing does."""
        self._database = database
        self._blobs = blobs
        self._image = image

    def publish(self, manifest: Manifest, by: str, now: datetime) -> PublishAnswer:
        """Make a version visible, with all its blobs; the answer warns of what no device can run.

        Raises:
            InvalidError: a blob is missing or has another size, the golden vectors are not of this model or a
                variant did not pass them, or the name is an alias.
            ConflictError: the version is published with other content; `errors` names each difference.
            KeyOfflineError: the model's own key has to sign it, and has not.
        """
        answer = retried(lambda: self._publish(manifest, by, now))
        with self._database.read() as session:
            warnings = publish_warnings(manifest, known_classes(session))
        return answer.model_copy(update={"warnings": warnings})

    def _publish(self, manifest: Manifest, by: str, now: datetime) -> PublishAnswer:
        body = manifest.canonical()
        with self._database.write() as session:
            row = exact_version(session, manifest.model, manifest.version)
            if row is None:
                if missing := missing_blobs(session, self._blobs, manifest.blobs(), now):
                    raise InvalidError(
                        "Blobs are missing or are not what the manifest says; upload them first.",
                        tuple(missing.values()),
                    )
                require_golden(self._blobs, manifest)
                if faults := publish_faults(manifest):
                    raise InvalidError("What it says of its variants is not enough, or does not go together.", faults)
                _require_no_alias(session, manifest)
                row = _insert(session, manifest, body, by, now)
                if self._image is not None:
                    self._image.list_model(session, manifest.model, now, [manifest.version])
                return PublishAnswer(version=version_views(session, [row])[0], created=True)
            if digest_of(body) in manifests_of(session, row):
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
            if self._image is not None:
                self._image.relist_model(session, model, now, [version])


def missing_blobs(session: Session, blobs: BlobStore, wanted: Mapping[Digest, int], now: datetime) -> dict[Digest, str]:
    """Those of the wanted (digest to size) that are not there, in the database and in the store, each with why.

    What is there counts as used: the sweep leaves it for its grace time, and cannot run during a write transaction.
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
    said = or_(*(DeviceStateRow.reported.contains(manifest) for manifest in manifests_of(session, row)))
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


class Conversions:
    """The use cases of added variants. Thread-safe."""

    def __init__(
        self, database: Database, blobs: BlobStore, blob_bytes: int, image: ImageRepository | None = None
    ) -> None:
        """`blob_bytes`: what all files of a variant that a device offers may have together; `image`: as of Versions."""
        self._database = database
        self._blobs = blobs
        self._blob_bytes = blob_bytes
        self._image = image

    def add(self, model: str, version: str, variant: Variant, by: str, now: datetime) -> VariantAnswer:
        """A variant that a publisher made.

        Raises:
            NotFoundError: no version of exactly this name.
            InvalidError, ConflictError: as the table above says.
            KeyOfflineError: as of `Versions.publish`.
        """
        with self._database.write() as session:
            row = found(exact_version(session, model, version), f"Model {model!r} has no version {version!r}.")
            return self._add(session, row, variant, by, now)

    def offer(self, job: str, device: str, variant: Variant, now: datetime) -> VariantAnswer:
        """A variant that a device made in a job of its own; what is missing of it the device may upload from now on.

        Raises:
            NotFoundError: no such job, or its version is gone.
            ForbiddenError: it is another device's job, it is over, or it was to make something else.
            TooLargeError: it is larger than a blob may be.
            InvalidError, ConflictError: as the table above says.
            KeyOfflineError: as of `Versions.publish`.
        """
        with self._database.write() as session:
            row = find_job(session, job)
            work = Job.model_validate_json(row.document)
            owner = session.get_one(DeviceRow, row.device_id).name
            if owner != device or row.over or work.kind is not JobKind.CONVERT or variant.format is not work.to:
                raise ForbiddenError(f"Job {job} of device {owner!r} is over, or was not to make this.")
            if variant.build is None or variant.build.built_on != device:
                raise InvalidError(f"The variant does not say that {device!r} built it (`build.built_on`).")
            if variant.size > self._blob_bytes:
                raise TooLargeError(f"The variant has {variant.size} bytes; {self._blob_bytes} are the most.")
            version = found(
                exact_version(session, work.model, work.version),
                f"Model {work.model!r} has no version {work.version!r} any more.",
            )
            _require_made_for(session, work, row.device_id, variant, Manifest.model_validate_json(version.body))
            answer = self._add(session, version, variant, f"device/{device}", now)
            session.execute(delete(OfferedBlobRow).where(OfferedBlobRow.job == row.number))
            offered = {file.digest: file.size for file in answer.missing}
            session.add_all(OfferedBlobRow(job=row.number, digest=d, size=offered[d]) for d in offered)
        return answer

    def _add(self, session: Session, row: VersionRow, variant: Variant, by: str, now: datetime) -> VariantAnswer:
        manifest = Manifest.model_validate_json(row.body)
        there = manifest.variant(variant.name)
        if there is not None:
            if there.canonical_digest() == variant.canonical_digest():
                return VariantAnswer(manifest=row.manifest)
            whose = f"made on {there.build.built_on or 'a publisher'}" if there.build else "published"
            raise ConflictError(
                f"{row.model} {row.version} has a variant {variant.name!r} with other content, {whose}, and variants "
                "never change. Deploy gives it to every host that it fits; if you want another, give that another name."
            )
        extended = _extended(manifest, row.manifest, variant)
        missing = missing_blobs(session, self._blobs, {file.digest: file.size for file in variant.files}, now)
        if missing:
            return VariantAnswer(missing=tuple(file for file in variant.files if file.digest in missing))
        digest = _store(session, row, extended, by, now)
        if self._image is not None:
            self._image.list_model(session, row.model, now, [row.version])
        return VariantAnswer(manifest=digest)


def _require_made_for(session: Session, work: Job, device: int, variant: Variant, newest: Manifest) -> None:
    """Raises InvalidError: it is not what the job was to make."""
    told = session.get_one(DeviceRow, device).facts
    facts = Platform.model_validate_json(told) if told else None
    before = manifest_body(session, work.manifest)
    wrong = tuple(
        job_faults(work, facts, variant, Manifest.model_validate_json(before) if before is not None else newest, newest)
    )
    if wrong and newest.variant(variant.name) is None:
        raise InvalidError(f"Variant {variant.name!r} is not what the job was to make: {'; '.join(wrong)}.")


def _extended(manifest: Manifest, digest: Digest, variant: Variant) -> Manifest:
    """The manifest with one more variant. Raises InvalidError."""
    what = f"Variant {variant.name!r} cannot be added to {manifest.model} {manifest.version}"
    wrong = tuple(added_faults(manifest, variant))
    if wrong:
        raise InvalidError(f"{what}: {'; '.join(wrong)}.")
    update = {"variants": (*manifest.variants, variant), "extends": digest}
    try:
        extended = Manifest.model_validate(manifest.model_copy(update=update).to_json())
        size = len(extended.canonical())
    except (ValidationError, ValueError) as error:
        found = error.errors() if isinstance(error, ValidationError) else []
        raise InvalidError(f"{what}.", tuple(str(fault["msg"]) for fault in found) or (str(error),)) from error
    if size > MAX_MANIFEST_BYTES:
        raise InvalidError(f"{what}: the manifest would have {size} bytes; {MAX_MANIFEST_BYTES} are the most.")
    return extended


def _store(session: Session, row: VersionRow, extended: Manifest, by: str, now: datetime) -> Digest:
    """The version gets its newest manifest; the earlier one keeps its digest and bytes."""
    session.add(
        EarlierManifestRow(
            manifest=row.manifest,
            version_id=row.id,
            revision=row.revision,
            body=row.body,
            created_at=now,
            created_by=by,
        )
    )
    known = {file.digest for variant in Manifest.model_validate_json(row.body).variants for file in variant.files}
    row.body = extended.canonical()
    row.manifest, row.revision = digest_of(row.body), row.revision + 1
    row.variants = variant_views(extended)
    row.size = sum(extended.blobs().values())
    added = {file.digest for file in extended.variants[-1].files} - known
    for digest in added:
        session.merge(VersionBlobRow(version_id=row.id, digest=digest))
    session.flush()
    return row.manifest


def require_golden(blobs: BlobStore, manifest: Manifest) -> None:
    """The version's golden vectors fit the signature of every variant; their blob is there. Only its header is read.

    Raises:
        InvalidError: they do not.
    """
    golden = manifest.golden
    if golden is None:
        return
    try:
        with closing(blobs.open(golden.file.digest)) as reader:
            cases = read_cases(reader.read_at(0, header_end(reader.read_at(0, 8), reader.size)), reader.size)
        for variant in manifest.variants:
            if variant.inputs or variant.outputs:
                check_cases(cases, variant.inputs, variant.outputs, golden.cases)
    except TensorFileError as error:
        raise InvalidError(f"The golden vectors {golden.file.digest} are not of this version: {error}.") from None
