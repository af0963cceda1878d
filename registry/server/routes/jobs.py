"""Jobs: one-time work for a device, the variants that come of it, and what was measured: parity, validation sets,
and what versions scored on them."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Response

from registry.contracts.api.answers import Page, Scope
from registry.contracts.api.devices import JobRequest, JobView
from registry.contracts.api.versions import ParityView, VariantAnswer, VariantOffer
from registry.contracts.evaluation import DatasetCreate, DatasetView, EvaluationCreate, EvaluationView
from registry.contracts.paths import API
from registry.contracts.wire import Name, VersionName
from registry.server.middleware.auth import Caller, CatalogReader, Deployer, Publisher, Reader, ServicesDep
from registry.server.middleware.paging import NEWEST, PagingDep

jobs = APIRouter(prefix=API + "/jobs", tags=["jobs"])
evaluations = APIRouter(prefix=API, tags=["evaluations"])


@jobs.post("", status_code=201)
def create_job(body: JobRequest, services: ServicesDep, who: Deployer) -> JobView:
    """Give a device a job; it stands in its desired document until it is over."""
    return services.fleet.jobs.create(body, who.name, services.clock())


@jobs.get("")
def list_jobs(
    services: ServicesDep,
    paging: PagingDep,
    _who: Reader,
    device: Name | None = None,
    model: Name | None = None,
    over: Annotated[bool | None, Query(description="Only jobs that are over, or only the others")] = None,
) -> Page[JobView]:
    """Jobs, newest first."""
    return paging.newest(f"jobs {device} {model} {over}", partial(services.fleet.jobs.page, device, model, over))


@jobs.get("/{job}")
def get_job(job: Name, services: ServicesDep, who: Caller) -> JobView:
    """One job; its device may ask too."""
    view = services.fleet.jobs.view(job)
    who.require_device_or(Scope.READ, view.device)
    return view


@jobs.delete("/{job}")
def cancel_job(job: Name, services: ServicesDep, who: Deployer) -> JobView:
    """Cancel it, unless it is over."""
    return services.fleet.jobs.cancel(job, who.name, services.clock())


@jobs.put("/{job}/variant")
def offer_variant(job: Name, body: VariantOffer, services: ServicesDep, who: Caller) -> VariantAnswer:
    """What a conversion made. While files are missing, the job's device may upload exactly those; then offer again."""
    device = services.fleet.jobs.view(job).device
    who.require_device(device)
    return services.conversions.offer(job, device, body.variant, services.clock())


@evaluations.get("/models/{model}/versions/{version}/parity")
def list_parity(model: Name, version: VersionName, services: ServicesDep, _who: Reader) -> Page[ParityView]:
    """How each variant answered the golden vectors: on the publisher's machine, and on the devices; all at once."""
    return Page[ParityView](items=tuple(services.parity.of(model, version)))


@evaluations.get("/models/{model}/versions/{version}/evaluations")
def list_evaluations(
    model: Name, version: VersionName, services: ServicesDep, paging: PagingDep, _who: Reader
) -> Page[EvaluationView]:
    """What the version scored, by variant and device; newest first."""
    found = partial(services.evaluations.page, model, version)
    return paging.answer(f"evaluations {model} {version}", NEWEST, found, lambda view: view.id)


@evaluations.post("/models/{model}/versions/{version}/evaluations", status_code=201)
def add_evaluation(
    model: Name, version: VersionName, body: EvaluationCreate, services: ServicesDep, who: Publisher
) -> EvaluationView:
    """Keep what a variant scored where no device was asked. Devices are asked with a job of kind `evaluate`."""
    return services.evaluations.add(model, version, body, who.name, services.clock())


@evaluations.get("/datasets")
def list_datasets(services: ServicesDep, paging: PagingDep, _who: CatalogReader) -> Page[DatasetView]:
    """All validation sets by name."""
    return paging.answer("datasets", "", services.datasets.page, lambda view: view.name)


@evaluations.get("/datasets/{name}")
def get_dataset(name: Name, services: ServicesDep, _who: CatalogReader) -> DatasetView:
    """One validation set."""
    return services.datasets.get(name)


@evaluations.put(
    "/datasets/{name}",
    status_code=201,
    responses={200: {"model": DatasetView, "description": "It was there already"}},
)
def publish_dataset(
    name: Name, body: DatasetCreate, services: ServicesDep, response: Response, who: Publisher
) -> DatasetView:
    """Publish a validation set whose blob is there. It never changes."""
    view, created = services.datasets.publish(name, body, who.name, services.clock())
    if not created:
        response.status_code = 200
    return view


@evaluations.delete("/datasets/{name}", status_code=204)
def delete_dataset(name: Name, services: ServicesDep, _who: Publisher) -> None:
    """Remove a validation set; what was measured on it stays."""
    services.datasets.delete(name, services.clock())
