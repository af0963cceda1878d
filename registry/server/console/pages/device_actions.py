"""What people do with one device besides deploying: register it, label it, renew its credential, delete it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import TypeAdapter

from registry.config import is_loopback
from registry.contracts.api.agents import CA_FILE, TRUST_FILE, agent_toml, token_file, trust_json
from registry.contracts.api.devices import DeviceCreated
from registry.contracts.api.labels import LabelsBody
from registry.contracts.wire import Name
from registry.errors import ConflictError, InvalidError, NotFoundError, PreconditionError
from registry.server.agent_connection import agent_connection
from registry.server.composition import Services
from registry.server.console.filters import command_line, segment
from registry.server.console.forms import Form, FormDep, parsed
from registry.server.console.rendering import done, page
from registry.server.console.visitors import Deploying, own_address
from registry.server.middleware.auth import ServicesDep
from registry.services.fleet.devices import check_labels

router = APIRouter()
FLEET = "/fleet"
_NAME: TypeAdapter[object] = TypeAdapter(Name)
_BODY = TypeAdapter(LabelsBody)


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
def add(request: Request, services: ServicesDep, who: Deploying, fields: FormDep) -> Response:
    """Ask, then register it; its credential is in the last answer alone."""
    name = str(parsed(_NAME, fields.text("name"), "The device's name"))
    given = label_pairs(fields.text("labels"))
    check_labels(given)
    with suppress(NotFoundError):
        services.fleet.devices.view(name, services.clock())
        raise ConflictError(f"There is a device named {name!r} already; choose another name.")
    if fields.ticked("confirmed"):
        answer = services.fleet.devices.put(name, given, services.clock(), who.name)
        if not isinstance(answer, DeviceCreated):
            raise ConflictError(f"Somebody else registered {name!r} at this moment; it has your labels now.")
        return _credential(request, services, answer, f"Registered {name}")
    words = [word for key, value in sorted(given.items()) for word in ("--label", f"{key}={value}")]
    return page(
        request,
        "confirm.html",
        active=FLEET,
        title=f"Register {name}?",
        back="/devices/new",
        action="/devices/new",
        fields=list(fields.hidden("confirmed")),
        facts=(
            ("Device", name),
            ("Labels", _text(given) or "none"),
            ("What happens", "It gets a credential, which is shown once, with the settings of its agent."),
        ),
        warnings=(),
        command=command_line("registry", "devices", "add", name, words),
        button="Register",
        danger=False,
        reason="",
    )


def _text(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _credential(request: Request, services: Services, created: DeviceCreated, title: str) -> Response:
    connection, asked_at = agent_connection(services.config, services.trust.anchors()), own_address(request)
    broker = connection.broker
    host = urlsplit(connection.registry_url or asked_at).hostname or ""
    return page(
        request,
        "credential.html",
        active=FLEET,
        title=title,
        device=created.device,
        secret=created.token,
        settings=agent_toml(created.device, connection, asked_at),
        token_file=token_file(created.device),
        ca_file=CA_FILE,
        trust_file=TRUST_FILE,
        trust=trust_json(connection),
        authorities=broker.authorities if broker is not None and broker.tls else "",
        only_here=is_loopback(host),
    )


@router.get("/devices/{device}/labels")
def labels(request: Request, device: Name, services: ServicesDep, _who: Deploying) -> Response:
    """The form with the labels that it has."""
    view = services.fleet.devices.view(device, services.clock())
    text = "\n".join(f"{key}={value}" for key, value in sorted(view.labels.items()))
    there = services.fleet.labels.offered()
    return page(request, "device-labels.html", active=FLEET, device=device, text=text, there=there)


@router.post("/devices/{device}/labels")
def set_labels(request: Request, device: Name, services: ServicesDep, who: Deploying, fields: FormDep) -> Response:
    """Ask, then change what differs from the labels that the form showed: what others changed meanwhile stays."""
    given, shown = label_pairs(fields.text("labels")), label_pairs(fields.text("before"))
    there = services.fleet.devices.view(device, services.clock()).labels
    put = {key: value for key, value in given.items() if shown.get(key) != value}
    remove = tuple(sorted(set(shown) - set(given)))
    path = f"/devices/{segment(device)}"
    if not put and not remove:
        return done(request, who, f"{device} has these labels already.", path)
    if others := sorted(key for key in (*put, *remove) if there.get(key) != shown.get(key)):
        raise PreconditionError(f"Somebody else changed the label {others[0]!r} of {device} meanwhile: look again.")
    body = parsed(_BODY, {"devices": (device,), "put": put, "remove": remove}, "The change")
    if fields.ticked("confirmed"):
        services.fleet.labels.change(body, who.name, services.clock())
        return done(request, who, f"Changed the labels of {device}.", path)
    services.fleet.labels.change(body.model_copy(update={"preview": True}), who.name, services.clock())
    words = [*(f"{key}={value}" for key, value in sorted(put.items())), *(f"{key}-" for key in remove)]
    return page(
        request,
        "confirm.html",
        active=FLEET,
        title=f"Change labels of {device}?",
        back=path + "/labels",
        action=path + "/labels",
        fields=list(fields.hidden("confirmed")),
        facts=(("Set", _text(put) or "none"), ("Remove", ", ".join(remove) or "none"), ("Now", _text(there) or "none")),
        warnings=("A rollout that is under way may take the device in, or leave it.",),
        command=command_line("registry", "devices", "label", device, words),
        button="Change labels",
        danger=False,
        reason="",
    )


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
def rotate(request: Request, device: Name, services: ServicesDep, who: Deploying) -> Response:
    """The new one is in this answer alone."""
    created = services.fleet.devices.rotate(device, services.clock(), who.name)
    return _credential(request, services, created, f"{device} has a new credential")


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
    services.fleet.devices.delete(device, services.clock(), who.name)
    return done(request, who, f"Deleted {device}.", FLEET)


def ticked(fields: Form) -> tuple[str, ...]:
    """The devices that were ticked in a list. Raises InvalidError: none, or what is no name."""
    names = tuple(str(parsed(_NAME, name, "A device's name")) for name in fields.texts("device"))
    if not names:
        raise InvalidError("No device was ticked: go back and tick some.")
    return names
