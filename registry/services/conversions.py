"""Variants that are made after a version was published: the manifest is extended, never changed.

The extended manifest names the one before in `extends`, has all its variants as they were, and one more. It becomes
the version's newest; the earlier one stays to be had by its digest, and devices that were told to serve it go on.

| an added variant must | else |
|---|---|
| have the inputs and outputs of the others | invalid |
| be made from a sibling, for hardware that it names, not off in its parity: `registry.core.publish_checks` | invalid |
| from a device: be what its job was to make, once | invalid |
| have a name of its own; the same variant again changes nothing | conflict |
"""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError
from sqlalchemy import delete
from sqlalchemy.orm import Session

from registry.blobs.base import BlobStore
from registry.contracts.api.versions import VariantAnswer
from registry.contracts.catalogue.manifest import MAX_MANIFEST_BYTES, Manifest, Variant
from registry.contracts.device.jobs import Job, JobKind
from registry.contracts.fit.platforms import Platform
from registry.contracts.wire import Digest, digest_of
from registry.core.publish_checks import added_faults, job_faults
from registry.db.catalog_rows import VersionBlobRow, VersionRow
from registry.db.engine import Database
from registry.db.fleet_rows import DeviceRow
from registry.db.job_rows import EarlierManifestRow, OfferedBlobRow
from registry.errors import ConflictError, ForbiddenError, InvalidError, TooLargeError
from registry.services.catalogue.versions import missing_blobs, variant_views
from registry.services.jobs import find_job
from registry.services.queries import found
from registry.services.views import exact_version, manifest_body


class Conversions:
    """The use cases of added variants. Thread-safe."""

    def __init__(self, database: Database, blobs: BlobStore, blob_bytes: int) -> None:
        """`blob_bytes`: what all files of a variant that a device offers may have together."""
        self._database = database
        self._blobs = blobs
        self._blob_bytes = blob_bytes

    def add(self, model: str, version: str, variant: Variant, by: str, now: datetime) -> VariantAnswer:
        """A variant that a publisher made.

        Raises:
            NotFoundError: no version of exactly this name.
            InvalidError, ConflictError: as the table above says.
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
        return VariantAnswer(manifest=_store(session, row, extended, by, now))


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
