"""One device: what it should serve and serves, why, what happened to it, its host, and its desired document."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from registry.contracts.api.devices import DeploymentView, DeviceView
from registry.contracts.fit.choices import ResolutionView, ResolveBody
from registry.contracts.wire import Name, VersionName
from registry.errors import ConflictError, NotFoundError
from registry.server.composition import Services
from registry.server.console import device_texts
from registry.server.console.device_figures import device_plots
from registry.server.console.rendering import page
from registry.server.console.timeline import by_day, short_form, timeline
from registry.server.console.visitors import Reading
from registry.server.middleware.auth import ServicesDep
from registry.server.middleware.paging import NEWEST
from registry.services.rollouts.rollouts import DeviceInRollout

router = APIRouter()
FLEET = "/fleet"
EVENTS, JOBS, ROLLOUTS, SLOTS, HEALTH, PLOTTED = 100, 20, 10, 256, 24, 120


@router.get("/devices/{device}")
def show(
    request: Request,
    device: Name,
    services: ServicesDep,
    _who: Reading,
    steps: Annotated[str, Query(max_length=3)] = "",
) -> Response:
    """The page. `?steps=all`: with every step on the way."""
    now, fleet = services.clock(), services.fleet
    view = fleet.devices.view(device, now)
    deployments = fleet.deployments.page(device, "", SLOTS)
    rollouts = fleet.rollouts.of_device(device, ROLLOUTS, now)
    jobs = [job for _, job in fleet.jobs.page(device, None, None, NEWEST, JOBS)]
    events = [event for _, event in fleet.health.events(device, NEWEST, EVENTS)]
    moments = timeline(view, events, deployments, jobs, rollouts)
    return page(
        request,
        "device.html",
        live=True,
        active=FLEET,
        device=view,
        wanted={each.model: each for each in deployments},
        why={each.model: _why(services, each, rollouts) for each in deployments},
        reported=view.reported.models if view.reported is not None else {},
        models=sorted(set(view.desired) | set(view.slots) | set(view.reported.models if view.reported else ())),
        jobs=jobs,
        days=by_day(moments if steps == "all" else short_form(moments)),
        steps=steps,
        names={each.set_by: f"the rollout {each.rollout}" for each in rollouts},
        texts=device_texts,
        another_epoch=_of_another_epoch(view),
    )


def _of_another_epoch(view: DeviceView) -> bool:
    """Does its last report answer a document of before the registry was put back from a backup?"""
    return view.reported is not None and view.reported.epoch not in ("", view.epoch)


def _why(services: Services, wanted: DeploymentView, rollouts: list[DeviceInRollout]) -> str:
    same = (part for part in rollouts if wanted.set_by == part.set_by)
    return device_texts.why_text(wanted, next(same, None), _choice(services, wanted))


def _choice(services: Services, wanted: DeploymentView) -> ResolutionView | None:
    body = ResolveBody(model=wanted.model, version=wanted.version, device=wanted.device)
    try:
        return services.fleet.coverage.resolution(body)
    except (ConflictError, NotFoundError):  # no facts; or the version was deleted meanwhile
        return None


@router.get("/devices/{device}/desired")
def desired(request: Request, device: Name, services: ServicesDep, _who: Reading) -> Response:
    """The desired document, as the device gets it."""
    found = services.fleet.documents.load(device)
    text = json.dumps(json.loads(found.body), indent=2, ensure_ascii=False)
    return page(request, "desired.html", active=FLEET, device=device, text=text, digest=found.digest)


@router.get("/devices/{device}/explain")
def explain(
    request: Request,
    device: Name,
    services: ServicesDep,
    _who: Reading,
    model: Annotated[Name | None, Query()] = None,
    version: Annotated[VersionName | None, Query()] = None,
) -> Response:
    """Which variant of a version this device would run, and why not the others."""
    view = services.fleet.devices.view(device, services.clock())
    found = None
    if model is not None and version is not None:
        found = services.fleet.coverage.resolution(ResolveBody(model=model, version=version, device=device))
    return page(request, "explain.html", active=FLEET, device=view, model=model, version=version, found=found)


@router.get("/devices/{device}/health")
def health(request: Request, device: Name, services: ServicesDep, _who: Reading) -> Response:
    """The newest reports of its health, and what is kept of the hours before."""
    now = services.clock()
    reports = [report for _, report in services.fleet.health.page(device, NEWEST, PLOTTED)]
    hours = services.fleet.health.hours(device, now, HEALTH)
    counts = services.fleet.health.counts(device, None, ("", "", ""), SLOTS)
    shown: dict[str, Any] = {"device": device, "reports": reports[:HEALTH], "hours": hours, "counts": counts}
    shown["plots"] = device_plots(reports)
    return page(request, "device-health.html", active=FLEET, live=True, **shown)
