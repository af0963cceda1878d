"""Devices: registered and labelled by people, what each should serve, what they say of themselves, and jobs.

Their reports come over HTTP instead of MQTT with their own credential. The desired document is what the whole fleet
polls, so it is a plain Starlette endpoint that answers from memory: FastAPI's own work per request (dependencies,
response model) would cost two thirds of the rate.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from registry import tracing
from registry.contracts.api.answers import Page, Scope
from registry.contracts.api.devices import (
    CountView,
    Deployment,
    DeploymentView,
    DeviceCreate,
    DeviceCreated,
    DeviceQuery,
    DeviceReports,
    DeviceView,
    HealthHour,
    JobRequest,
    JobView,
    ReportsTaken,
    ResultView,
)
from registry.contracts.api.events import EventQuery, FleetEvent
from registry.contracts.api.fleet import FleetSummary
from registry.contracts.api.labels import LabelsAnswer, LabelsBody, LabelsView
from registry.contracts.api.over_time import HealthSeries, HealthSpan
from registry.contracts.api.versions import VariantAnswer, VariantOffer
from registry.contracts.device.messages import Desired, Event, Health
from registry.contracts.fit.platforms import Platform
from registry.contracts.paths import API
from registry.contracts.wire import Name
from registry.errors import InvalidError, TemporaryError
from registry.server.agent_connection import agent_connection
from registry.server.composition import Services
from registry.server.device_pages import count_page, device_page
from registry.server.event_pages import event_page
from registry.server.fleet_metrics import certificate_ends
from registry.server.middleware.auth import Caller, Deployer, Reader, ServicesDep, caller, caller_of, services_of
from registry.server.middleware.etags import document, expected_revision
from registry.server.middleware.paging import NEWEST, PagingDep

desired = APIRouter(prefix=API, tags=["desired"])
devices = APIRouter(prefix=API, tags=["devices"])
fleet = APIRouter(prefix=API, tags=["devices"])
deployments = APIRouter(prefix=API + "/devices/{device}/deployments", tags=["deployments"])
telemetry = APIRouter(prefix=API, tags=["telemetry"])
results = APIRouter(prefix=API, tags=["results"])
jobs = APIRouter(prefix=API + "/jobs", tags=["jobs"])
LAST_SECOND = int(datetime(9999, 1, 1, tzinfo=timezone.utc).timestamp())
DESIRED = "/devices/{device}/desired"
_NAME: TypeAdapter[str] = TypeAdapter(Name)


async def get_desired(request: Request) -> Response:
    """The canonical bytes of the document with their digest as ETag; 304 when the client has them."""
    services = services_of(request)
    device = _device(request.path_params["device"])
    who = await caller_of(request)
    who.require_device_or(Scope.READ, device)
    if who.device == device:
        services.fleet.presence.polled(device, services.clock())
    documents = services.fleet.documents
    found = documents.remembered(device)
    if found is None:
        found = await run_in_threadpool(documents.load, device)
    answer = document(request, found.body, found.digest)
    if trace := tracing.recalled(device, found.generation):
        answer.headers[tracing.PROPERTY] = trace
    return answer


def _device(name: str) -> str:
    try:
        return _NAME.validate_python(name)
    except ValidationError as error:
        raise InvalidError(f"Not the name of a device: {name[:100]!r}.") from error


desired.add_route(DESIRED, get_desired, methods=["GET", "HEAD"])  # answers
desired.get(  # documents: the route above is first, so this one never answers
    DESIRED,
    response_model=Desired,
    responses={304: {"description": "The client has it: its If-None-Match named the ETag."}},
    dependencies=[Depends(caller)],
    openapi_extra={"parameters": [{"name": "device", "in": "path", "required": True, "schema": {"type": "string"}}]},
)(get_desired)


@devices.get("/devices")
def list_devices(
    services: ServicesDep, paging: PagingDep, wanted: Annotated[DeviceQuery, Query()], _who: Reader
) -> Page[DeviceView]:
    """Devices, by name or in another order; with several filters, those for which all hold. A page looks at a bounded
    part of the fleet: it may have fewer items than asked for, or none, and all the same a next one."""
    return device_page(services, paging, wanted)


@fleet.get("/fleet")
def get_fleet(services: ServicesDep, _who: Reader) -> FleetSummary:
    """The whole fleet in figures; room and certificates as they are now."""
    now, fleet = services.clock(), services.fleet
    summary = fleet.figures.summary(now)
    ends = {name: at for (name,), at in certificate_ends(services.config.mqtt, fleet.bridge).items()}
    ends |= {f"devices_{name}": at for (name,), at in fleet.telemetry.certificates.soonest(now).items()}
    certificates = {name: datetime.fromtimestamp(at, timezone.utc) for name, at in sorted(ends.items())}
    free = None
    with suppress(TemporaryError):
        free = services.blobs.free_bytes()
    storage = summary.storage.model_copy(update={"free_bytes": free})
    return summary.model_copy(update={"storage": storage, "certificates": certificates})


@fleet.get("/health/series")
def get_health_series(
    services: ServicesDep, _who: Reader, span: HealthSpan = HealthSpan.DAY, model: Name | None = None
) -> HealthSeries:
    """The fleet's health over time: by model, or by version of one model."""
    return services.fleet.over_time.view(span, model, services.clock())


@fleet.get("/events")
def list_fleet_events(
    services: ServicesDep, paging: PagingDep, wanted: Annotated[EventQuery, Query()], _who: Reader
) -> Page[FleetEvent]:
    """What happened, newest first: what devices told, and who changed rollouts, aliases and deployments. A page looks
    at a bounded number of rows: it may have fewer items than asked for, or none, and all the same a next one."""
    return event_page(services, paging, wanted)[0]


@devices.get("/labels")
def list_labels(services: ServicesDep, _who: Reader) -> LabelsView:
    """Which labels devices have, the commonest first."""
    return services.fleet.labels.view()


@devices.post("/labels")
def change_labels(body: LabelsBody, services: ServicesDep, who: Deployer) -> LabelsAnswer:
    """Change labels of many devices, all or none; with `preview` only count them."""
    return services.fleet.labels.change(body, who.name, services.clock())


@devices.get("/devices/{device}")
def get_device(device: Name, services: ServicesDep, who: Caller) -> DeviceView:
    """One device, as the registry knows it; the device itself may ask too."""
    who.require_device_or(Scope.READ, device)
    return services.fleet.devices.view(device, services.clock())


@devices.put("/devices/{device}", responses={201: {"model": DeviceCreated}})
def put_device(
    device: Name, body: DeviceCreate, services: ServicesDep, response: Response, who: Deployer
) -> DeviceCreated | DeviceView:
    """Register a device, or set its labels. A new one: 201 with its credential, once, and its agent's connections."""
    answer = services.fleet.devices.put(device, body.labels, services.clock(), who.name)
    if isinstance(answer, DeviceCreated):
        response.status_code = 201
        return _with_connection(answer, services, response)
    return answer


@devices.delete("/devices/{device}", status_code=204)
def delete_device(device: Name, services: ServicesDep, who: Deployer) -> None:
    """Forget a device, its history and its credential."""
    services.fleet.devices.delete(device, services.clock(), who.name)


@devices.post("/devices/{device}/credential")
def rotate_credential(device: Name, services: ServicesDep, response: Response, who: Deployer) -> DeviceCreated:
    """A new credential; the old one works no more."""
    return _with_connection(services.fleet.devices.rotate(device, services.clock(), who.name), services, response)


def _with_connection(created: DeviceCreated, services: Services, response: Response) -> DeviceCreated:
    """What an agent needs, besides its name; it holds a secret, so nobody on the way keeps it."""
    response.headers["Cache-Control"] = "no-store"
    return created.model_copy(update={"connection": agent_connection(services.config, services.trust.anchors())})


@devices.get("/devices/{device}/health")
def list_health(device: Name, services: ServicesDep, paging: PagingDep, _who: Reader) -> Page[Health]:
    """Single health reports, newest first."""
    return paging.newest(f"health/{device}", partial(services.fleet.health.page, device))


@devices.get("/devices/{device}/health/hours")
def list_hours(device: Name, services: ServicesDep, paging: PagingDep, _who: Reader) -> Page[HealthHour]:
    """What stays of the hours whose single reports are gone, newest first."""

    def before(start: int, count: int) -> list[HealthHour]:
        at = datetime.fromtimestamp(min(start, LAST_SECOND), tz=timezone.utc)
        return services.fleet.health.hours(device, at, count)

    return paging.answer(f"hours/{device}", LAST_SECOND, before, lambda hour: int(hour.hour.timestamp()))


@devices.get("/devices/{device}/events")
def list_events(device: Name, services: ServicesDep, paging: PagingDep, _who: Reader) -> Page[Event]:
    """Events, newest first."""
    return paging.newest(f"events/{device}", partial(services.fleet.health.events, device))


@deployments.get("")
def list_deployments(device: Name, services: ServicesDep, paging: PagingDep, who: Caller) -> Page[DeploymentView]:
    """The device's deployments by model."""
    who.require_device_or(Scope.READ, device)
    found = partial(services.fleet.deployments.page, device)
    return paging.answer(f"deployments/{device}", "", found, lambda deployment: deployment.model)


@deployments.put("/{model}")
def put_deployment(  # noqa: PLR0917 - called by the framework, by name
    request: Request, device: Name, model: Name, body: Deployment, services: ServicesDep, who: Deployer
) -> DeploymentView:
    """Set what the slot should serve: a version, or what an alias points to now. 409 when no variant fits; 412 when
    If-Match or `seen` names another generation of the slot than the one that stands."""
    body = body if (seen := _seen(request)) is None else body.model_copy(update={"seen": seen})
    return services.fleet.deployments.put(device, model, body, who.name, services.clock())


@deployments.delete("/{model}", status_code=204)
def delete_deployment(request: Request, device: Name, model: Name, services: ServicesDep, who: Deployer) -> None:
    """The device should no longer serve the model. 412 as for PUT."""
    services.fleet.deployments.remove(device, model, who.name, services.clock(), seen=_seen(request))


def _seen(request: Request) -> int | None:
    """The generation of a slot that the caller saw; 0: nothing. None: it does not say. Raises as
    `expected_revision`."""
    if "if-none-match" in request.headers:
        return expected_revision(request, required=False) or 0
    return expected_revision(request, required=False)


@telemetry.put("/devices/{device}/facts", status_code=204)
def put_facts(device: Name, body: Platform, services: ServicesDep, who: Caller) -> None:
    """What the device found out about its host; new facts choose variants again."""
    who.require_device(device)
    services.fleet.telemetry.put_facts(device, body, services.clock())


@telemetry.post(
    "/devices/{device}/reports",
    status_code=204,
    responses={200: {"model": ReportsTaken, "description": "Taken, and the registry asks for something."}},
)
def post_reports(device: Name, body: DeviceReports, services: ServicesDep, who: Caller) -> Response:
    """Reported state, health and events, taken whole; the same again changes nothing."""
    who.require_device(device)
    if not services.fleet.telemetry.take_reports(device, body, services.clock()):
        return Response(status_code=204)
    return Response(ReportsTaken(facts_wanted=True).canonical(), media_type="application/json")


@telemetry.get("/counts")
def list_counts(
    services: ServicesDep, paging: PagingDep, _who: Reader, device: Name | None = None, model: Name | None = None
) -> Page[CountView]:
    """Requests by device, model and version."""
    return count_page(services, paging, device, model)


@results.get("/results")
def list_results(
    services: ServicesDep, paging: PagingDep, _who: Reader, device: Name | None = None, model: Name | None = None
) -> Page[ResultView]:
    """Results of models that are recorded, newest first."""
    found = partial(services.fleet.results.page, device, model)
    return paging.answer("results", NEWEST, found, lambda result: result.id)


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
