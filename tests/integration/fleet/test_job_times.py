"""When jobs end by themselves, and when they are forgotten: the service on a real database, with a clock of our own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from registry.config import RegistryConfig
from registry.contracts.api.devices import JobRequest
from registry.contracts.catalogue.manifest import FileRef, Format, Manifest, Target, Variant
from registry.contracts.device.deployments import JobKind, JobState, JobStatus
from registry.contracts.device.messages import Desired, Reported
from registry.contracts.wire import digest_of
from registry.core.intake import checked
from registry.db.catalog_rows import BlobRow
from registry.errors import NotFoundError
from registry.server.composition import Services, build_services
from registry.services.jobs import WAIT

START = datetime(2030, 5, 1, 10, tzinfo=timezone.utc)
EMPTY = digest_of(b"")


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """A registry with lenet 1.0.0 and the device edge-1."""
    built = build_services(RegistryConfig(data_dir=tmp_path), lambda: START)
    with built.blobs.begin("part", EMPTY) as writer:
        writer.save()
    built.blobs.complete("part", EMPTY)
    with built.database.write() as session:
        session.add(BlobRow(digest=EMPTY, size=0, used_at=START))
    file = FileRef(path="model.onnx", digest=EMPTY, size=0)
    variant = Variant(name="cpu", format=Format.ONNX, target=Target.CPU, entry="model.onnx", files=(file,))
    built.versions.publish(Manifest(model="lenet", version="1.0.0", variants=(variant,)), "test", START)
    built.fleet.devices.put("edge-1", {}, START)
    yield built
    built.close()


def give(services: Services) -> str:
    request = JobRequest(
        device="edge-1", kind=JobKind.CONVERT, model="lenet", version="1.0.0", to=Format.ONNX, timeout_s=60
    )
    return services.fleet.jobs.create(request, "test", START).id


def report(services: Services, job: str, at: datetime, **status: object) -> None:
    said = Reported(
        device="edge-1",
        session_id="s",
        generation=1,
        at=at,
        facts_digest=EMPTY,
        jobs={job: JobStatus.model_validate(status)},
    )
    services.fleet.telemetry.take([checked("edge-1", said, at)])


def wanted(services: Services) -> Desired:
    return Desired.model_validate_json(services.fleet.documents.load("edge-1").body)


def test_a_job_that_its_device_never_takes_up_fails_in_the_end_and_leaves_the_document(services: Services) -> None:
    job = give(services)
    services.fleet.jobs.sweep(START + WAIT)
    assert services.fleet.jobs.view(job).status.state is JobState.WAITING
    services.fleet.jobs.sweep(START + WAIT + timedelta(seconds=1))
    status = services.fleet.jobs.view(job).status
    assert (status.state, status.code) == (JobState.FAILED, "job_expired")
    assert wanted(services).jobs == {}


def test_a_running_job_has_time_for_all_its_tries_and_no_more(services: Services) -> None:
    job = give(services)
    began = START + timedelta(hours=23)
    report(services, job, began, state="running")
    services.fleet.jobs.sweep(began + timedelta(hours=1))
    assert services.fleet.jobs.view(job).status.state is JobState.RUNNING
    services.fleet.jobs.sweep(began + timedelta(hours=1, minutes=4))
    assert services.fleet.jobs.view(job).status.code == "job_expired"


def test_a_finished_job_can_be_read_for_a_while_and_is_then_forgotten(services: Services) -> None:
    job = give(services)
    report(services, job, START, state="succeeded", result={"measured": "no"})
    kept = timedelta(hours=services.config.retention.events_hours)
    services.fleet.jobs.sweep(START + kept)
    assert services.fleet.jobs.view(job).status.result == {"measured": "no"}
    services.fleet.jobs.sweep(START + kept + timedelta(seconds=1))
    with pytest.raises(NotFoundError):
        services.fleet.jobs.view(job)


def test_jobs_go_with_their_device(services: Services) -> None:
    job = give(services)
    services.fleet.devices.delete("edge-1", START)
    with pytest.raises(NotFoundError):
        services.fleet.jobs.view(job)
