"""Work of devices: jobs (conversions, evaluations) and the results of models whose recording is switched on."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from registry.contracts.device.deployments import JobState
from registry.contracts.wire import Name
from registry.server.console.filters import command_line
from registry.server.console.forms import FormDep
from registry.server.console.rendering import done, page
from registry.server.console.sections import NavEntry
from registry.server.console.visitors import Deploying, Reading
from registry.server.middleware.auth import ServicesDep
from registry.server.middleware.paging import NEWEST, PagingDep

router = APIRouter()
SECTION = NavEntry("Jobs", "/jobs", "jobs", router)
KIND = {JobState.SUCCEEDED: "ok", JobState.FAILED: "bad", JobState.CANCELLED: "idle", JobState.WAITING: "idle"}
"""How a state is shown; the others are busy."""
_OVER = {"open": False, "over": True}


@router.get("/jobs")
def jobs(  # noqa: PLR0917 - called by the framework, by name
    request: Request,
    services: ServicesDep,
    paging: PagingDep,
    _who: Reading,
    device: str = "",
    model: str = "",
    state: str = "",
) -> Response:
    """Newest first; filters stand in the address."""
    over = _OVER.get(state)
    fetch = partial(services.fleet.jobs.page, device or None, model or None, over)
    found = paging.newest(f"jobs {device} {model} {over}", fetch)
    shown: dict[str, Any] = {"jobs": found.items, "next": found.next, "kinds": KIND}
    return page(request, "jobs.html", live=True, device=device, model=model, state=state, **shown)


@router.get("/jobs/{job}")
def job(request: Request, job: Name, services: ServicesDep, _who: Reading) -> Response:
    """One: what was asked for, how far it is, what came out."""
    return page(request, "job.html", live=True, job=services.fleet.jobs.view(job), kinds=KIND, active="/jobs")


@router.post("/jobs/{job}/cancel")
def cancel_job(request: Request, job: Name, services: ServicesDep, who: Deploying, form: FormDep) -> Response:
    """End it; the device stops when it hears of it."""
    if form.ticked("confirmed"):
        services.fleet.jobs.cancel(job, who.name, services.clock())
        return done(request, who, f"Job {job} is cancelled.", f"/jobs/{job}")
    view = services.fleet.jobs.view(job)
    return page(
        request,
        "confirm.html",
        title=f"Cancel job {job}",
        back=f"/jobs/{job}",
        action=f"/jobs/{job}/cancel",
        fields=(),
        facts=(
            ("Device", view.device),
            ("Work", f"{view.job.kind} of {view.job.model}@{view.job.version}"),
            ("Effect", "It fails as cancelled. The device stops when the message reaches it."),
        ),
        warnings=(),
        command=command_line("registry", "jobs", "cancel", job),
        button="Cancel the job",
        danger=True,
        reason=None,
        active="/jobs",
    )


@router.get("/results")
def results(
    request: Request, services: ServicesDep, paging: PagingDep, _who: Reading, device: str = "", model: str = ""
) -> Response:
    """Recorded results, newest first."""
    fetch: Any = partial(services.fleet.results.page, device or None, model or None)
    found = paging.answer("results", NEWEST, fetch, lambda result: result.id)
    return page(request, "results.html", results=found.items, next=found.next, device=device, model=model)
