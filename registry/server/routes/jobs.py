"""Jobs: one-time work for a device, and the variants that come of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from registry.contracts.api.answers import Page, Scope
from registry.contracts.api.devices import JobRequest, JobView
from registry.contracts.api.versions import VariantAnswer, VariantOffer
from registry.contracts.paths import API
from registry.contracts.wire import Name
from registry.server.middleware.auth import Caller, Deployer, Reader, ServicesDep
from registry.server.middleware.paging import NEWEST, PagingDep

router = APIRouter(prefix=API + "/jobs", tags=["jobs"])
JobId = Annotated[Name, Path()]


@router.post("", status_code=201)
def create_job(body: JobRequest, services: ServicesDep, who: Deployer) -> JobView:
    """Give a device a job; it stands in its desired document until it is over."""
    return services.fleet.jobs.create(body, who.name, services.clock())


@router.get("")
def list_jobs(
    services: ServicesDep,
    paging: PagingDep,
    _who: Reader,
    device: Annotated[Name | None, Query()] = None,
    model: Annotated[Name | None, Query()] = None,
    over: Annotated[bool | None, Query(description="Only jobs that are over, or only the others")] = None,
) -> Page[JobView]:
    """Jobs, newest first."""
    listing = f"jobs {device} {model} {over}"
    found = services.fleet.jobs.page(device, model, over, paging.start(listing, NEWEST), paging.limit + 1)
    page = paging.page(listing, found, lambda item: item[0])
    return Page[JobView](items=tuple(view for _, view in page.items), next=page.next)


@router.get("/{job}")
def get_job(job: JobId, services: ServicesDep, who: Caller) -> JobView:
    """One job; its device may ask too."""
    view = services.fleet.jobs.view(job)
    who.require_device_or(Scope.READ, view.device)
    return view


@router.delete("/{job}")
def cancel_job(job: JobId, services: ServicesDep, who: Deployer) -> JobView:
    """Cancel it, unless it is over."""
    return services.fleet.jobs.cancel(job, who.name, services.clock())


@router.put("/{job}/variant")
def offer_variant(job: JobId, body: VariantOffer, services: ServicesDep, who: Caller) -> VariantAnswer:
    """What a conversion made. While files are missing, the job's device may upload exactly those; then offer again."""
    device = services.fleet.jobs.view(job).device
    who.require_device(device)
    return services.conversions.offer(job, device, body.variant, services.clock())
