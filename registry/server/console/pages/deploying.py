"""Deploying by hand, to one device or to those that were ticked, and labels of many; each with a preview of who."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import TypeAdapter

from registry.contracts.api.devices import Deployment
from registry.contracts.api.labels import LabelsBody
from registry.contracts.catalogue.batching import BatchingMode
from registry.contracts.device.deployments import DeploymentPolicy
from registry.contracts.device.messages import Profile
from registry.contracts.fit.choices import ResolveBody
from registry.contracts.texts import how_many
from registry.contracts.wire import LabelKey, Name, VersionName
from registry.errors import InvalidError, PreconditionError, RegistryError
from registry.server.composition import Services
from registry.server.console.filters import command_line, query, segment
from registry.server.console.forms import Form, FormDep, parsed
from registry.server.console.pages.device_actions import FLEET, label_pairs, ticked
from registry.server.console.rendering import done, page
from registry.server.console.visitors import Deploying
from registry.server.middleware.auth import ServicesDep
from registry.services.fleet.desired import MAX_MODELS

router = APIRouter()
MOST = 100
"""Devices that one form deploys to; a rollout takes any number, in waves that are watched."""
_MODEL: TypeAdapter[object] = TypeAdapter(Name)
_VERSION: TypeAdapter[object] = TypeAdapter(VersionName)
_KEY: TypeAdapter[object] = TypeAdapter(LabelKey)
_PROFILE, _BATCHING = TypeAdapter(Profile), TypeAdapter(BatchingMode)


@dataclass(frozen=True)
class _Preview:
    """One device, before it is done."""

    device: str
    now: str
    variant: str
    fault: str
    seen: int
    """The slot's generation; 0: nothing should serve."""


@router.get("/devices/{device}/deploy")
def deploy_form(
    request: Request,
    device: Name,
    services: ServicesDep,
    _who: Deploying,
    *,
    model: Annotated[str, Query(max_length=64)] = "",
    version: Annotated[str, Query(max_length=64)] = "",
    retry: str = "",
) -> Response:
    """What should it serve?"""
    services.fleet.devices.view(device, services.clock())
    return _form(request, services, (device,), model, version, retry=bool(retry))


@router.post("/fleet/deploy")
def deploy(request: Request, services: ServicesDep, who: Deploying, fields: FormDep) -> Response:
    """The form, then the preview, then the deed."""
    devices = _meant(services, fields)
    if not fields.text("model"):
        return _form(request, services, devices, "", "", retry=False)
    model, body = _asked(fields)
    if not fields.ticked("confirmed"):
        return _confirm(request, services, devices, (model, body), fields)
    seen = _seen(fields)
    if seen.keys() != set(devices):
        raise PreconditionError("Other devices are meant now than those that you saw. Nothing was changed; look again.")
    done_for: list[str] = []
    try:
        for device in devices:
            own = body.model_copy(update={"seen": seen[device]})
            services.fleet.deployments.put(device, model, own, who.name, services.clock())
            done_for.append(device)
    except RegistryError as error:
        before = f"before that it was done for {', '.join(done_for)}" if done_for else "nothing was changed"
        error.errors = (*error.errors, f"at {devices[len(done_for)]}; {before}")
        raise
    text = f"{how_many(len(devices), 'device')} should serve {model}@{body.version} now."
    return done(request, who, text, f"/devices/{segment(devices[0])}" if len(devices) == 1 else FLEET)


def _meant(services: Services, fields: Form) -> tuple[str, ...]:
    if fields.text("which") != "selector":
        devices = ticked(fields)
    else:
        devices = services.fleet.labels.meant(fields.text("selector"), MOST + 1)
    if len(devices) > MOST:
        raise InvalidError(
            f"That is more than {MOST} devices. Use a rollout: it goes in waves, is watched, and goes back by itself."
        )
    return devices


def _form(
    request: Request, services: Services, devices: tuple[str, ...], model: str, version: str, *, retry: bool
) -> Response:
    names = [found.name for found in services.models.page("", 200)]
    versions = [found for name in names[:20] for _, found in services.versions.page(name, (1 << 63) - 1, 5)]
    return page(
        request,
        "deploy.html",
        active=FLEET,
        devices=devices,
        model=model,
        version=version,
        retry=retry,
        versions=versions,
        profiles=list(Profile),
        batching=list(BatchingMode),
        back=f"/devices/{segment(devices[0])}" if len(devices) == 1 else FLEET,
    )


def _asked(fields: Form) -> tuple[str, Deployment]:
    model = str(parsed(_MODEL, fields.text("model"), "The model"))
    body = Deployment(
        version=str(parsed(_VERSION, fields.text("version"), "The version")),
        variant=str(parsed(_MODEL, fields.text("variant"), "The variant")) if fields.text("variant") else None,
        profile=parsed(_PROFILE, fields.text("profile") or Profile.THROUGHPUT, "The profile"),
        batching=parsed(_BATCHING, fields.text("batching") or BatchingMode.AUTO, "The batching"),
        force=fields.ticked("force"),
        retry=fields.ticked("retry"),
        policy=_policy(fields.text("probation")),
    )
    return model, body


def _policy(probation: str) -> DeploymentPolicy:
    if not probation:
        return DeploymentPolicy()
    try:
        return DeploymentPolicy(probation_s=float(probation))
    except ValueError as error:
        raise InvalidError(
            f"The probation is a number of seconds from 0 to 2592000, not {probation[:40]!r}."
        ) from error


def _confirm(
    request: Request, services: Services, devices: tuple[str, ...], asked: tuple[str, Deployment], fields: Form
) -> Response:
    model, body = asked
    previews = [_preview(services, device, model, body) for device in devices]
    faults = [preview for preview in previews if preview.fault]
    warnings = [f"{how_many(len(faults), 'device')} of {len(devices)} cannot run it: see below."] if faults else []
    options: list[object] = []
    if body.variant is not None:
        options += ["--variant", body.variant]
    if body.profile is not Profile.THROUGHPUT:
        options += ["--profile", body.profile.value]
    if body.batching is not BatchingMode.AUTO:
        options += ["--batching", body.batching.value]
    options += ["--force"] if body.force else []
    options += ["--retry"] if body.retry else []
    options += ["--probation", f"{body.policy.probation_s:g}s"] if fields.text("probation") else []
    named = [word for device in devices for word in ("--device", device)]
    return page(
        request,
        "deploy-confirm.html",
        active=FLEET,
        title=f"Deploy {model}@{body.version} to {how_many(len(devices), 'device')}?",
        back=f"/devices/{segment(devices[0])}" if len(devices) == 1 else FLEET,
        action="/fleet/deploy",
        fields=[*fields.hidden("confirmed", "seen"), *(("seen", f"{each.device}={each.seen}") for each in previews)],
        facts=(("Version", f"{model}@{body.version}"), ("Devices", how_many(len(devices), "device"))),
        warnings=warnings,
        previews=previews,
        command=command_line("registry", "deploy", f"{model}@{body.version}", named, options),
        button="Deploy",
        danger=False,
        reason="",
    )


def _seen(fields: Form) -> dict[str, int]:
    """By device: the generation of its slot when the person looked. Raises InvalidError."""
    pairs = [text.rpartition("=") for text in fields.texts("seen")]
    if any(not number.isdecimal() or len(number) > 15 for _, _, number in pairs):
        raise InvalidError("What you saw is not named as the page does; look again.")
    return {device: int(number) for device, _, number in pairs}


def _slot_seen(services: Services, device: str, model: str) -> int:
    found = services.fleet.deployments.page(device, "", MAX_MODELS)
    return next((each.generation for each in found if each.model == model), 0)


def _preview(services: Services, device: str, model: str, body: Deployment) -> _Preview:
    view = services.fleet.devices.view(device, services.clock())
    now, seen = view.desired.get(model, "nothing"), _slot_seen(services, device, model)
    if view.facts is None:
        services.versions.get(model, body.version)
        return _Preview(device, now, "its agent chooses", "", seen)
    asked = ResolveBody(model=model, version=body.version, device=device, variant=body.variant)
    found = services.fleet.coverage.resolution(asked).resolution
    return _Preview(device, now, found.chosen or "none", "" if found.chosen or body.force else "no variant fits", seen)


@router.get("/devices/{device}/undeploy")
def ask_undeploy(
    request: Request, device: Name, services: ServicesDep, _who: Deploying, model: Annotated[Name, Query()]
) -> Response:
    """Asks."""
    view = services.fleet.devices.view(device, services.clock())
    path = f"/devices/{segment(device)}"
    return page(
        request,
        "confirm.html",
        active=FLEET,
        title=f"Unassign {model} from {device}?",
        back=path,
        action=f"{path}/undeploy",
        fields=(("model", model), ("seen", f"{device}={_slot_seen(services, device, model)}")),
        facts=(("Device", device), ("Should serve now", f"{model}@{view.desired.get(model, 'nothing')}")),
        warnings=("The device unloads the model; requests for it are then refused with unknown_model.",),
        command=command_line("registry", "undeploy", model, "--device", device),
        button="Unassign",
        danger=True,
        reason="",
    )


@router.post("/devices/{device}/undeploy")
def undeploy(request: Request, device: Name, services: ServicesDep, who: Deploying, fields: FormDep) -> Response:
    """It should no longer serve the model."""
    model = str(parsed(_MODEL, fields.text("model"), "The model"))
    seen = _seen(fields).get(device)
    services.fleet.deployments.remove(device, model, who.name, services.clock(), seen=seen)
    return done(request, who, f"{device} should no longer serve {model}.", f"/devices/{segment(device)}")


@router.post("/fleet/label")
def label(request: Request, services: ServicesDep, who: Deploying, fields: FormDep) -> Response:
    """The form, then the preview, then the deed."""
    selector = fields.text("selector") if fields.text("which") == "selector" else ""
    devices = () if selector else ticked(fields)
    put, remove = label_pairs(fields.text("put")), _keys(fields.text("remove"))
    hidden = list(fields.hidden("confirmed", "put", "remove"))
    if not put and not remove:
        there = services.fleet.labels.offered()
        return page(request, "label.html", active=FLEET, fields=hidden, devices=devices, selector=selector, there=there)
    body = LabelsBody(selector=selector, devices=devices, put=put, remove=remove, preview=True)
    answer = services.fleet.labels.change(body, who.name, services.clock())
    what = ", ".join([*(f"{key}={value}" for key, value in put.items()), *(f"{key}-" for key in remove)])
    back = FLEET + (query({"selector": selector}) if selector else "")
    if fields.ticked("confirmed"):
        answer = services.fleet.labels.change(body.model_copy(update={"preview": False}), who.name, services.clock())
        return done(request, who, f"Changed {how_many(answer.changed, 'device')} of {answer.devices}: {what}.", back)
    more = answer.changed - len(answer.first)
    named = ", ".join(answer.first) + (f" and {more} more" if more else "")
    words = [*devices, *(f"{key}={value}" for key, value in put.items()), *(f"{key}-" for key in remove)]
    return page(
        request,
        "confirm.html",
        active=FLEET,
        title=f"Change labels of {how_many(answer.changed, 'device')}?",
        back=back,
        action="/fleet/label",
        fields=list(fields.hidden("confirmed")),
        facts=(
            ("Change", what),
            ("Devices meant", answer.devices),
            ("Would change", f"{answer.changed}: {named}" if answer.changed else "none: they have it already"),
        ),
        warnings=(),
        command=command_line("registry", "devices", "label", *(["--selector", selector] if selector else []), words),
        button="Change labels",
        danger=False,
        reason="",
    )


def _keys(text: str) -> tuple[str, ...]:
    return tuple(str(parsed(_KEY, key, "A label's key")) for key in text.replace(",", " ").split())
