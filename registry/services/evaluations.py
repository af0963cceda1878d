"""What versions scored on validation sets, by variant and device. The newest of each counts; older ones go."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.device.jobs import Job, JobKind, JobState, JobStatus
from registry.contracts.evaluation.datasets import EvaluationCreate, EvaluationView
from registry.contracts.evaluation.scoring import METRICS
from registry.db.catalog_rows import VersionRow
from registry.db.engine import Database
from registry.db.evaluation_rows import DatasetRow, EvaluationRow
from registry.errors import InvalidError
from registry.services.datasets import find_dataset
from registry.services.views import exact_version, find_version


class Evaluations:
    """The use cases of evaluations. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
            found = session.scalars(query.order_by(EvaluationRow.number.desc()).limit(limit)).all()
            return [_view(row, evaluation) for evaluation in found]


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
