"""What people do with one device besides deploying: register it, label it, renew its credential, delete it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import TypeAdapter

from registry.contracts.api.devices import DeviceCreated
from registry.contracts.wire import Name
from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.server.console.filters import command_line, segment
from registry.server.console.forms import Form, FormDep, parsed
from registry.server.console.rendering import done, page
from registry.server.console.visitors import Deploying
from registry.server.middleware.auth import ServicesDep

router = APIRouter()
FLEET = "/fleet"
_NAME: TypeAdapter[object] = TypeAdapter(Name)


def label_pairs(text: str) -> dict[str, str]:
    """`key=value`, one a line or between commas. Raises InvalidError."""
    found: dict[str, str] = {}
    for part in text.replace(",", "\n").splitlines():
        pair = part.strip()
        if not pair:
            continue
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise InvalidError(f"A label is KEY=VALUE, not {pair[:100]!r}.")
        found[key.strip()] = value.strip()
    return found


@router.get("/devices/new")
def new(request: Request, _who: Deploying) -> Response:
    """The form."""
    return page(request, "device-new.html", active=FLEET)


@router.post("/devices/new")
def add(request: Request, services: ServicesDep, _who: Deploying, fields: FormDep) -> Response:
    """Register it; its credential is in this answer alone."""
    name = str(parsed(_NAME, fields.text("name"), "The device's name"))
    try:
        services.fleet.devices.view(name, services.clock())
    except NotFoundError:
        answer = services.fleet.devices.put(name, label_pairs(fields.text("labels")), services.clock())
    else:
        raise ConflictError(f"There is a device named {name!r} already; choose another name.")
    return _credential(request, answer, f"Registered {name}") if isinstance(answer, DeviceCreated) else _gone(name)


def _gone(name: str) -> Response:
    raise ConflictError(f"Somebody else registered {name!r} at this moment.")


def _credential(request: Request, created: DeviceCreated, title: str) -> Response:
    return page(request, "credential.html", active=FLEET, title=title, device=created.device, secret=created.token)


@router.get("/devices/{device}/labels")
def labels(request: Request, device: Name, services: ServicesDep, _who: Deploying) -> Response:
    """The form with the labels that it has."""
    view = services.fleet.devices.view(device, services.clock())
    text = "\n".join(f"{key}={value}" for key, value in sorted(view.labels.items()))
    return page(request, "device-labels.html", active=FLEET, device=device, text=text)


@router.post("/devices/{device}/labels")
def set_labels(request: Request, device: Name, services: ServicesDep, who: Deploying, fields: FormDep) -> Response:
    """These labels in place of those before."""
    services.fleet.devices.view(device, services.clock())  # not a new device by mistake
    services.fleet.devices.put(device, label_pairs(fields.text("labels")), services.clock())
    return done(request, who, f"{device} has these labels now.", f"/devices/{segment(device)}")


@router.get("/devices/{device}/credential")
def ask_credential(request: Request, device: Name, services: ServicesDep, _who: Deploying) -> Response:
    """Asks."""
    services.fleet.devices.view(device, services.clock())
    return page(
        request,
        "confirm.html",
        active=FLEET,
        title=f"New credential for {device}?",
        back=f"/devices/{segment(device)}",
        action=f"/devices/{segment(device)}/credential",
        fields=(),
        facts=(("Device", device), ("What happens", "The old credential stops working at once.")),
        warnings=("Until its agent has the new one the device cannot reach the registry. What it serves goes on.",),
        command=command_line("registry", "devices", "rotate", device),
        button="Make a new credential",
        danger=False,
        reason="",
    )


@router.post("/devices/{device}/credential")
def rotate(request: Request, device: Name, services: ServicesDep, _who: Deploying) -> Response:
    """The new one is in this answer alone."""
    created = services.fleet.devices.rotate(device, services.clock())
    return _credential(request, created, f"{device} has a new credential")


@router.get("/devices/{device}/delete")
def ask_delete(request: Request, device: Name, services: ServicesDep, _who: Deploying) -> Response:
    """Asks, with what goes with it."""
    view = services.fleet.devices.view(device, services.clock())
    serves = ", ".join(f"{model}@{version}" for model, version in sorted(view.desired.items())) or "nothing"
    return page(
        request,
        "confirm.html",
        active=FLEET,
        title=f"Delete {device}?",
        back=f"/devices/{segment(device)}",
        action=f"/devices/{segment(device)}/delete",
        fields=(),
        facts=(
            ("Should serve", serves),
            ("Connection", "online" if view.online else "away"),
            ("What goes", "its credential, deployments, reports, health, counts and results"),
        ),
        warnings=("This cannot be undone.",),
        command=command_line("registry", "devices", "remove", device),
        button=f"Delete {device}",
        danger=True,
        reason="",
    )


@router.post("/devices/{device}/delete")
def delete(request: Request, device: Name, services: ServicesDep, who: Deploying) -> Response:
    """Forget it."""
    services.fleet.devices.delete(device, services.clock())
    return done(request, who, f"Deleted {device}.", FLEET)


def ticked(fields: Form) -> tuple[str, ...]:
    """The devices that were ticked in a list. Raises InvalidError: none, or what is no name."""
    names = tuple(str(parsed(_NAME, name, "A device's name")) for name in fields.texts("device"))
    if not names:
        raise InvalidError("No device was ticked: go back and tick some.")
    return names
