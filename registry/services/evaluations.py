"""How good the variants of a version are: validation sets, scores on them, and how golden vectors were answered.

A validation set is a name for a blob that is checked once, when it is published; a name never changes its blob. Of the
scores of a variant on a device the newest counts; older ones go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import ValidationError
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from registry.blobs.base import BlobStore
from registry.contracts.api.versions import ParityView
from registry.contracts.catalogue.manifest import Manifest, TensorSpec
from registry.contracts.device.deployments import Job, JobKind, JobState, JobStatus
from registry.contracts.device.messages import Reported
from registry.contracts.evaluation import (
    METRICS,
    Dataset,
    DatasetCreate,
    DatasetView,
    EvaluationCreate,
    EvaluationView,
    read_dataset,
    require_classes,
)
from registry.contracts.tensor_file import TensorFileError, header_end
from registry.db.catalog_rows import BlobRow, DatasetRow, EvaluationRow, VersionRow
from registry.db.engine import Database
from registry.db.fleet_rows import DeviceRow, DeviceStateRow
from registry.db.index_rows import DeviceSlotRow
from registry.errors import ConflictError, InvalidError
from registry.services.queries import UseCases, exact_version, find_version, found, manifests_of


class Datasets:
    """The use cases of validation sets. Thread-safe."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    def publish(self, name: str, body: DatasetCreate, by: str, now: datetime) -> tuple[DatasetView, bool]:
        """Give a blob a name; whether it is new.

        Raises:
            InvalidError: the blob is not there, has another size, or is no validation set.
            ConflictError: the name is that of another blob.
        """
        with self._database.write() as session:
            row = session.get(DatasetRow, name)
            if row is not None and row.digest == body.digest:
                return _dataset_view(row), False
            if row is not None:
                raise ConflictError(
                    f"The validation set {name!r} is {row.digest}, and a set never changes; publish this under "
                    "another name, or remove the old one first."
                )
            blob = session.get(BlobRow, body.digest)
            if blob is None or blob.size != body.size or self._blobs.size_of(body.digest) != body.size:
                raise InvalidError(f"There is no blob {body.digest} of {body.size} bytes; upload it first.")
            blob.used_at = now
            found = self._read(body)
            row = DatasetRow(
                name=name,
                digest=body.digest,
                size=body.size,
                items=found.items,
                tensors=[spec.model_dump(mode="json") for spec in found.specs()],
                created_at=now,
                created_by=by,
            )
            session.add(row)
            session.flush()
            return _dataset_view(row), True

    def get(self, name: str) -> DatasetView:
        """One by its name. Raises NotFoundError."""
        with self._database.read() as session:
            return _dataset_view(find_dataset(session, name))

    def page(self, after: str, limit: int) -> list[DatasetView]:
        """Up to `limit` by name, after the name `after`."""
        query = select(DatasetRow).where(DatasetRow.name > after).order_by(DatasetRow.name).limit(limit)
        with self._database.read() as session:
            return [_dataset_view(row) for row in session.scalars(query)]

    def delete(self, name: str, now: datetime) -> None:
        """Remove it; what was measured on it stays, and the sweep collects its blob. Raises NotFoundError."""
        with self._database.write() as session:
            row = find_dataset(session, name)
            blob = session.get_one(BlobRow, row.digest)
            blob.used_at = now
            session.delete(row)

    def _read(self, body: DatasetCreate) -> Dataset:
        try:
            with closing(self._blobs.open(body.digest)) as reader:
                found = read_dataset(reader.read_at(0, header_end(reader.read_at(0, 8), reader.size)), reader.size)
                if found.labels is not None:
                    begin, end = found.labels.begin, found.labels.end
                    require_classes(found.labels.datatype, reader.read_at(begin, end - begin))
                return found
        except TensorFileError as error:
            raise InvalidError(f"The blob {body.digest} is no validation set: {error}.") from None


def find_dataset(session: Session, name: str) -> DatasetRow:
    """The row. Raises NotFoundError."""
    return found(session.get(DatasetRow, name), f"There is no validation set named {name!r}.")


def _dataset_view(row: DatasetRow) -> DatasetView:
    return DatasetView(
        name=row.name,
        digest=row.digest,
        size=row.size,
        items=row.items,
        tensors=tuple(TensorSpec.model_validate(spec) for spec in row.tensors),
        created_at=row.created_at,
        created_by=row.created_by,
    )


class VersionScore(NamedTuple):
    """What the variants and devices of a version scored, together."""

    version: str
    dataset: str
    metric: str
    best: float
    worst: float
    measured: int
    """So many variants and devices."""


class Evaluations(UseCases):
    """The use cases of evaluations. Thread-safe."""

    def add(self, model: str, version: str, body: EvaluationCreate, by: str, now: datetime) -> EvaluationView:
        """Keep what somebody measured without a device.

        Raises:
            NotFoundError: no such version or validation set.
            InvalidError: no such variant or metric.
        """
        with self._database.write() as session:
            row = find_version(session, model, version)
            dataset = find_dataset(session, body.dataset)
            if Manifest.model_validate_json(row.body).variant(body.variant) is None:
                raise InvalidError(f"{row.model} {row.version} has no variant {body.variant!r}.")
            if body.metric not in METRICS:
                raise InvalidError(f"There is no metric {body.metric!r}; there are {', '.join(METRICS)}.")
            kept = _keep(session, row, (dataset.digest, dataset.name), body.model_dump(), device="", by=by, now=now)
            return _view(row, kept)

    def page(self, model: str, version: str, before: int, limit: int) -> list[EvaluationView]:
        """Up to `limit` of a version, newest first, of those below number `before`. Raises NotFoundError."""
        with self._database.read() as session:
            row = find_version(session, model, version)
            query = select(EvaluationRow).where(EvaluationRow.version_id == row.id, EvaluationRow.number < before)
            query = query.order_by(EvaluationRow.number.desc()).limit(limit)
            return [_view(row, evaluation) for evaluation in session.scalars(query)]

    def scores(self, model: str, versions: Sequence[str]) -> list[VersionScore]:
        """Of these versions, by validation set and metric; the best, the worst, and how many there are."""
        score = EvaluationRow.score
        columns = (VersionRow.version, EvaluationRow.dataset_name, EvaluationRow.metric)
        query = select(*columns, func.max(score), func.min(score), func.count()).group_by(*columns).order_by(*columns)
        query = query.join(EvaluationRow, EvaluationRow.version_id == VersionRow.id)
        with self._database.read() as session:
            rows = session.execute(query.where(VersionRow.model == model, VersionRow.version.in_(versions)))
            return [VersionScore(*row) for row in rows]


def keep_evaluation(session: Session, device: str, job: Job, status: JobStatus, *, by: str, now: datetime) -> None:
    """Keep what a device's job found, within the caller's transaction. Nothing for other jobs, or without a result."""
    if job.kind is not JobKind.EVALUATE or status.state is not JobState.SUCCEEDED:
        return
    row = exact_version(session, job.model, job.version)
    if row is None:  # deleted meanwhile: nobody asks for it any more
        return
    named = session.scalar(select(DatasetRow.name).where(DatasetRow.digest == job.dataset).limit(1))
    name = job.dataset_name or named  # of several names for one content, the one that was asked for
    try:
        said = EvaluationCreate.model_validate({**status.result, "dataset": name or "removed", "metric": job.metric})
    except ValidationError:  # the job's status says what the device said
        return
    if job.dataset is not None:
        _keep(session, row, (job.dataset, said.dataset), said.model_dump(), device=device, by=by, now=now)


def _keep(
    session: Session,
    row: VersionRow,
    dataset: tuple[str, str],
    said: dict[str, Any],
    *,
    device: str,
    by: str,
    now: datetime,
) -> EvaluationRow:
    digest, name = dataset
    evaluation = EvaluationRow(
        version_id=row.id,
        variant=said["variant"],
        device=device,
        dataset=digest,
        dataset_name=name,
        metric=said["metric"],
        score=said["value"],
        items=said["items"],
        backend=said["backend"],
        seconds=said["seconds"],
        measured_at=now,
        measured_by=by,
    )
    session.execute(
        delete(EvaluationRow).where(
            EvaluationRow.version_id == row.id,
            EvaluationRow.variant == evaluation.variant,
            EvaluationRow.device == device,
            EvaluationRow.dataset == digest,
            EvaluationRow.metric == evaluation.metric,
        )
    )
    session.add(evaluation)
    session.flush()
    return evaluation


def _view(row: VersionRow, evaluation: EvaluationRow) -> EvaluationView:
    return EvaluationView(
        id=evaluation.number,
        model=row.model,
        version=row.version,
        variant=evaluation.variant,
        device=evaluation.device or None,
        dataset=evaluation.dataset_name,
        dataset_digest=evaluation.dataset,
        metric=evaluation.metric,
        value=evaluation.score,
        items=evaluation.items,
        backend=evaluation.backend,
        seconds=evaluation.seconds,
        at=evaluation.measured_at,
        by=evaluation.measured_by,
    )


MAX_DEVICES = 500
"""Devices that serve a version, and devices that should, whose reports are read; of more, the first by name."""


class ParityTable(UseCases):
    """Reads what was measured; keeps nothing. Thread-safe."""

    def of(self, model: str, version: str, *, serving: int | None = None) -> list[ParityView]:
        """The publisher's figures in the order of the variants, then the devices' by name. Raises NotFoundError.

        A device counts with its newest report: while it serves this version, or while it should serve it and the
        deployment that it reports, under way or ended, is of this version. The fleet's index finds both, the first
        MAX_DEVICES by name of each.

        Args:
            model, version: Which.
            serving: Only of the first so many devices that serve the version.
        """
        with self._database.read() as session:
            row = find_version(session, model, version)
            manifest = Manifest.model_validate_json(row.body)
            digests = set(manifests_of(session, row))
            found = [
                ParityView(
                    variant=variant.name,
                    device=variant.build.built_on if variant.build else None,
                    backend=variant.parity.backend,
                    parity=variant.parity.parity,
                    at=row.created_at,
                )
                for variant in manifest.variants
                if variant.parity is not None
            ]
            return found + list(_reported(session, row, digests, serving))


def _reported(session: Session, row: VersionRow, digests: set[str], serving: int | None) -> Iterator[ParityView]:
    query = select(DeviceRow.name, DeviceStateRow.reported).join(DeviceStateRow)
    slots = select(DeviceSlotRow.device_id).where(DeviceSlotRow.model == row.model).order_by(DeviceSlotRow.name)
    first = {*session.scalars(slots.where(DeviceSlotRow.version == row.version).limit(serving or MAX_DEVICES))}
    if serving is None:
        first |= {*session.scalars(slots.where(DeviceSlotRow.desired == row.version).limit(MAX_DEVICES))}
    query = query.where(DeviceRow.id.in_(first))
    for device, text in sorted(session.execute(query), key=lambda found: found[0]):
        try:
            reported = Reported.model_validate_json(text or "")
        except ValidationError:  # by an older registry; the next report replaces it
            continue
        said = reported.models.get(row.model)
        if said is None:
            continue
        if said.manifest in digests and said.parity is not None and said.variant is not None:
            yield ParityView(
                variant=said.variant, device=device, backend=said.backend or "", parity=said.parity, at=reported.at
            )
        under_way = said.deployment
        if under_way and under_way.parity and under_way.manifest in digests and said.manifest not in digests:
            yield ParityView(
                variant=under_way.variant, device=device, backend="", parity=under_way.parity, at=reported.at
            )
