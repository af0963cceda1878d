"""Jobs: work that a device does once. The rows are the truth; desired documents follow in the same transaction.

A job that is not over stands in its device's desired document. What the device reports of it is taken over until it
is over; then it leaves the document, and the device forgets it. A device that says nothing ends in `job_expired`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta

from pydantic import ValidationError
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from registry.contracts.api.answers import Scope
from registry.contracts.api.devices import JobRequest, JobView
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.codes import JobCode
from registry.contracts.device.deployments import MAX_JOBS, OVER, Job, JobKind, JobState, JobStatus
from registry.db.engine import Database
from registry.db.fleet_rows import DeviceRow, JobRow, OfferedBlobRow
from registry.errors import BusyError, ForbiddenError, InvalidError
from registry.services.access.permits import require_devices
from registry.services.evaluations import find_dataset, keep_evaluation
from registry.services.fleet.desired import find_device, set_job
from registry.services.queries import find_version, found, given

MAX_JOB_BYTES = 8 << 10
"""Of one job's JSON: MAX_JOBS of them stand in one desired document."""
WAIT = timedelta(hours=24)
"""How long a device may be away before it begins."""
SLACK = timedelta(hours=1)
TRIES = 3
"""As often an agent tries a job again that was interrupted; see `agent.jobs.executor`."""
BATCH = 200


class Jobs:
    """The use cases of jobs. Thread-safe."""

    def __init__(self, database: Database, keep: timedelta) -> None:
        """`keep`: how long finished jobs can be read."""
        self._database = database
        self._keep = keep

    def create(self, request: JobRequest, by: str, now: datetime) -> JobView:
        """Give a device a job.

        Raises:
            NotFoundError: no such device, model, version, validation set.
            InvalidError: something that this kind of job needs is missing, or it is too long.
            BusyError: the device has MAX_JOBS jobs that are not over.
        """
        with self._database.write() as session:
            device = find_device(session, request.device)
            job = _job(session, request)
            require_devices(session, Scope.DEPLOY, job.model, DeviceRow.id == device.id)
            waiting = select(func.count()).where(JobRow.device_id == device.id, JobRow.over.is_(False))
            if (session.scalar(waiting) or 0) >= MAX_JOBS:
                raise BusyError(f"Device {device.name!r} has {MAX_JOBS} jobs to do; wait for one, or cancel it.")
            row = JobRow(
                id=f"{job.kind}-{secrets.token_hex(6)}",
                device_id=device.id,
                model=job.model,
                document=job.canonical().decode(),
                status=JobStatus(state=JobState.WAITING).canonical().decode(),
                created_at=now,
                created_by=by,
                updated_at=now,
                expires_at=now + WAIT,
            )
            session.add(row)
            session.flush()
            set_job(session, device, row.id, job, now)
            return _view(row, device.name)

    def view(self, job: str) -> JobView:
        """One job. Raises NotFoundError."""
        with self._database.read() as session:
            row = find_job(session, job)
            return _view(row, session.get_one(DeviceRow, row.device_id).name)

    def page(
        self, device: str | None, model: str | None, over: bool | None, before: int, limit: int
    ) -> list[tuple[int, JobView]]:
        """Up to `limit` jobs with their numbers, newest first, of those below number `before`."""
        query = select(JobRow, DeviceRow.name).join(DeviceRow, DeviceRow.id == JobRow.device_id)
        filters = given((DeviceRow.name, device), (JobRow.model, model), (JobRow.over, over))
        query = query.where(JobRow.number < before, *filters)
        with self._database.read() as session:
            found = session.execute(query.order_by(JobRow.number.desc()).limit(limit)).all()
        return [(row.number, _view(row, name)) for row, name in found]

    def cancel(self, job: str, by: str, now: datetime) -> JobView:
        """End a job that is not over; the device stops when it hears of it. Raises NotFoundError."""
        with self._database.write() as session:
            row = find_job(session, job)
            device = session.get_one(DeviceRow, row.device_id)
            require_devices(session, Scope.DEPLOY, row.model, DeviceRow.id == device.id)
            if not row.over:
                status = JobStatus(
                    state=JobState.CANCELLED, code=JobCode.JOB_CANCELLED, message=f"Cancelled by {by or 'a person'}."
                )
                _end(session, device, row, status, now)
            return _view(row, device.name)

    def require_offered(self, device: str, digest: str, size: int) -> None:
        """Raises ForbiddenError unless a job of the device that is not over offered this blob with this size."""
        query = select(OfferedBlobRow.size).join(JobRow, JobRow.number == OfferedBlobRow.job)
        query = query.join(DeviceRow, DeviceRow.id == JobRow.device_id)
        query = query.where(DeviceRow.name == device, JobRow.over.is_(False), OfferedBlobRow.digest == digest)
        with self._database.read() as session:
            if size not in set(session.scalars(query)):
                raise ForbiddenError(
                    f"Device {device!r} may upload only what a running job of its own offered; {digest} is not that."
                )

    def sweep(self, now: datetime) -> int:
        """Fail jobs whose time is over, forget those that ended long ago; how many."""
        with self._database.write() as session:
            late = select(JobRow).where(JobRow.over.is_(False), JobRow.expires_at < now).limit(BATCH)
            expired = session.scalars(late).all()
            for row in expired:
                message = "The device did not end it in time: is it connected, and its agent new enough for jobs?"
                status = JobStatus(state=JobState.FAILED, code=JobCode.JOB_EXPIRED, message=message)
                _end(session, session.get_one(DeviceRow, row.device_id), row, status, now)
            old = select(JobRow.number).where(JobRow.over.is_(True), JobRow.updated_at < now - self._keep).limit(BATCH)
            numbers = session.scalars(old).all()
            session.execute(delete(JobRow).where(JobRow.number.in_(numbers)))
        return len(expired) + len(numbers)


def find_job(session: Session, job: str) -> JobRow:
    """The job's row. Raises NotFoundError."""
    return found(
        session.scalar(select(JobRow).where(JobRow.id == job)),
        f"There is no job {job!r}; finished ones are forgotten after a while.",
    )


def take_statuses(session: Session, device: DeviceRow, statuses: Mapping[str, JobStatus], now: datetime) -> None:
    """Take over what a device reports of its jobs, within the caller's transaction."""
    if not statuses:
        return
    query = select(JobRow).where(JobRow.device_id == device.id, JobRow.id.in_(statuses), JobRow.over.is_(False))
    for row in session.scalars(query).all():
        status, text = statuses[row.id], statuses[row.id].canonical().decode()
        if status.state in OVER:
            _end(session, device, row, status, now)
        elif text != row.status:
            if status.state is JobState.RUNNING:
                timeout = Job.model_validate_json(row.document).timeout_s
                row.expires_at = now + timedelta(seconds=timeout) * TRIES + SLACK
            row.status, row.updated_at = text, now


def _end(session: Session, device: DeviceRow, row: JobRow, status: JobStatus, now: datetime) -> None:
    row.status, row.over, row.updated_at = status.canonical().decode(), True, now
    keep_evaluation(session, device.name, Job.model_validate_json(row.document), status, by=row.created_by, now=now)
    session.execute(delete(OfferedBlobRow).where(OfferedBlobRow.job == row.number))
    set_job(session, device, row.id, None, now)


def _job(session: Session, request: JobRequest) -> Job:
    version = find_version(session, request.model, request.version)
    manifest = Manifest.model_validate_json(version.body)
    if request.source is not None and manifest.variant(request.source) is None:
        names = ", ".join(variant.name for variant in manifest.variants)
        raise InvalidError(f"{manifest.model} {manifest.version} has no variant {request.source!r}; it has {names}.")
    if request.kind is JobKind.CONVERT and request.to is None:
        raise InvalidError("A conversion needs `to`, the format to make.")
    if request.kind is JobKind.EVALUATE and not (request.dataset and request.dataset_bytes and request.metric):
        raise InvalidError("An evaluation needs `dataset`, `dataset_bytes` and `metric`.")
    named = None if request.dataset_name is None else find_dataset(session, request.dataset_name)
    if named is not None and named.digest != request.dataset:
        raise InvalidError(f"The validation set {named.name!r} is {named.digest}, not {request.dataset}.")
    try:
        job = Job.model_validate(
            {
                **request.model_dump(exclude={"device"}),
                "model": version.model,
                "version": version.version,
                "manifest": version.manifest,
            }
        )
        size = len(job.canonical())
    except (ValidationError, ValueError) as error:
        raise InvalidError(f"The job cannot be given: {error}") from error
    if size > MAX_JOB_BYTES:
        raise InvalidError(f"The job has {size} bytes; {MAX_JOB_BYTES} are the most.")
    return job


def _view(row: JobRow, device: str) -> JobView:
    return JobView(
        id=row.id,
        device=device,
        job=Job.model_validate_json(row.document),
        status=JobStatus.model_validate_json(row.status),
        created_at=row.created_at,
        created_by=row.created_by,
        updated_at=row.updated_at,
        expires_at=row.expires_at,
    )
