"""A new rollout: a form, then its plan, then a draft that is started or kept. Nothing is stored before that."""

from __future__ import annotations

import json
import secrets
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from registry.contracts.rollout.spec import OfflinePolicy, OnFailure, RolloutSpec
from registry.contracts.rollout.states import Command
from registry.contracts.rollout.views import CommandBody
from registry.contracts.wire import Name
from registry.errors import ConflictError, InvalidError, NotFoundError, RegistryError, YankedError
from registry.server.composition import Services
from registry.server.console.filters import segment
from registry.server.console.forms import FormDep
from registry.server.console.rendering import done, page
from registry.server.console.rollout_form import GATE, PLAIN, command_of, spec_of, values_from, values_of
from registry.server.console.visitors import Deploying, Reading
from registry.server.middleware.auth import ServicesDep
from registry.server.middleware.paging import NEWEST

router = APIRouter()
OFFERED = 100
"""Versions and groups that the form offers while somebody types."""


@router.get("/rollouts/new")
def form(
    request: Request,
    services: ServicesDep,
    _who: Reading,
    model: Annotated[str, Query(max_length=128)] = "",
    version: Annotated[str, Query(max_length=128)] = "",
    like: Annotated[Name | None, Query(description="An earlier rollout")] = None,
) -> Response:
    """The form, filled in for a version or as an earlier rollout was."""
    values = dict(PLAIN)
    if like is not None:
        view = services.fleet.rollouts.get(like, services.clock())
        values = values_from(view.spec, version or view.version)
    elif model:
        values["reference"] = f"{model}@{version}"
    return _form(request, services, values)


def _form(request: Request, services: Services, values: dict[str, str], error: RegistryError | None = None) -> Response:
    model = values["reference"].partition("@")[0]
    return page(
        request, "rollout-new.html", status=200 if error is None else 422, active="/rollouts", values=values,
        error=error, gate=GATE, references=_references(services, model), failures=list(OnFailure),
        offlines=list(OfflinePolicy), groups=[group.name for group in services.fleet.groups.page("", OFFERED)],
    )  # fmt: skip


def _references(services: Services, model: str) -> list[str]:
    """What the field of the version offers: the model's aliases and versions, else the newest of each model."""
    try:
        found = services.models.get(model) if model else None
    except NotFoundError:
        found = None
    if found is None:
        newest = [(each.name, each.latest) for each in services.models.page("", OFFERED)]
        return [f"{name}@{version.version}" for name, version in newest if version is not None]
    versions = [version.version for _, version in services.versions.page(model, NEWEST, OFFERED)]
    return [f"{model}@{name}" for name in (*found.aliases, *versions)]


@router.post("/rollouts/plan")
def plan(request: Request, services: ServicesDep, _who: Reading, form: FormDep) -> Response:
    """What it would do. Nothing is kept."""
    values = values_of(form)
    if form.ticked("edit"):
        return _form(request, services, values)
    try:
        spec = spec_of(values)
        found = services.fleet.rollouts.plan_only(spec, services.clock())
    except (InvalidError, NotFoundError, ConflictError, YankedError) as error:
        return _form(request, services, values, error)
    return page(
        request, "rollout-preview.html", active="/rollouts", values=values, plan=found, spec=spec,
        key=secrets.token_hex(16), command=command_of(values), spec_text=json.dumps(spec.to_json(), indent=1),
    )  # fmt: skip


@router.post("/rollouts")
def create(request: Request, services: ServicesDep, who: Deploying, form: FormDep) -> Response:
    """Make it, and start it where that was asked for."""
    values = values_of(form)
    try:
        spec: RolloutSpec = spec_of(values)
        view = services.fleet.rollouts.create(spec, form.text("key") or None, who.name, services.clock())
    except (InvalidError, NotFoundError, ConflictError, YankedError) as error:
        return _form(request, services, values, error)
    name = view.spec.name or view.id
    if form.text("decision") != "start":
        return done(request, who, f"{name} is a draft. Nothing happens before it is started.",
                    f"/rollouts/{segment(view.id)}")  # fmt: skip
    body = CommandBody(command=Command.SUBMIT, revision=view.revision, note=values["note"])
    key = f"{form.text('key')}-start" if form.text("key") else None
    services.fleet.rollouts.command(view.id, body, key, who.name, services.clock())
    return done(request, who, f"Started {name}.", f"/rollouts/{segment(view.id)}")
