"""Giving a device one-time work: a conversion or an evaluation. How far it is: `work.py`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import TypeAdapter, ValidationError

from registry.contracts.api.devices import JobRequest
from registry.contracts.catalogue.manifest import Format
from registry.contracts.device.deployments import JobKind
from registry.contracts.evaluation import METRICS
from registry.contracts.wire import Name
from registry.errors import InvalidError
from registry.server.composition import Services
from registry.server.console.filters import command_line, segment
from registry.server.console.forms import Form, FormDep
from registry.server.console.rendering import done, page
from registry.server.console.visitors import Deploying
from registry.server.middleware.auth import ServicesDep
from registry.server.middleware.problems import faults_of

router = APIRouter()
FLEET = "/fleet"
_REQUEST: TypeAdapter[JobRequest] = TypeAdapter(JobRequest)


@router.get("/devices/{device}/jobs/new")
def new(request: Request, device: Name, services: ServicesDep, _who: Deploying) -> Response:
    """The form."""
    view = services.fleet.devices.view(device, services.clock())
    datasets = services.datasets.page("", 200)
    shown: dict[str, Any] = {"device": view, "datasets": datasets, "formats": list(Format), "metrics": list(METRICS)}
    return page(request, "job-new.html", active=FLEET, **shown)


@router.post("/devices/{device}/jobs/new")
def create(request: Request, device: Name, services: ServicesDep, who: Deploying, fields: FormDep) -> Response:
    """Asks, then gives it to the device."""
    body = _asked(services, device, fields)
    path = f"/devices/{segment(device)}"
    if fields.ticked("confirmed"):
        view = services.fleet.jobs.create(body, who.name, services.clock())
        return done(request, who, f"{device} was given the job {view.id}.", f"/jobs/{segment(view.id)}")
    facts = [("Device", device), ("Work", body.kind.value), ("Version", f"{body.model}@{body.version}")]
    reference = f"{body.model}@{body.version}"
    if body.kind is JobKind.CONVERT:
        facts += [("To", str(body.to or "")), ("From", body.source or "the variant that leads there")]
        source = ["--from", body.source] if body.source else []
        command = command_line(
            "registry", "convert", reference, "--to", body.to.value if body.to else "", "--on", device, source
        )
    else:
        facts += [("Validation set", body.dataset_name or ""), ("Metric", body.metric)]
        options = ["--dataset", body.dataset_name or "", "--metric", body.metric, "--on", device]
        command = command_line("registry", "evaluate", reference, options)
    return page(
        request,
        "confirm.html",
        active=FLEET,
        title=f"Give {device} this job?",
        back=path,
        action=f"{path}/jobs/new",
        fields=list(fields.hidden("confirmed")),
        facts=facts,
        warnings=("The job runs beside what the device serves, in a process of its own.",),
        command=command,
        button="Give the job",
        danger=False,
        reason="",
    )


def _asked(services: Services, device: str, fields: Form) -> JobRequest:
    given: dict[str, object] = {"device": device}
    given |= {name: fields.text(name) for name in ("kind", "model", "version") if fields.text(name)}
    if fields.text("kind") == JobKind.CONVERT.value:
        given |= {name: fields.text(name) for name in ("source", "to") if fields.text(name)}
    elif fields.text("dataset"):
        dataset = services.datasets.get(fields.text("dataset"))
        given |= {"dataset": dataset.digest, "dataset_bytes": dataset.size, "dataset_name": dataset.name}
        given["metric"] = fields.text("metric", "accuracy")
    try:
        return _REQUEST.validate_python(given)
    except ValidationError as error:
        raise InvalidError("The job is not complete, or a field is not right.", faults_of(error)) from error
