"""Try it: a picture or a request is sent to devices, and what they answer is shown side by side.

It makes work for devices that others depend on, so it needs the role deployer, as does changing what they serve.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, TypeAdapter

from registry.client.json_requests import request_of_json
from registry.contracts.api.answers import Scope
from registry.contracts.api.devices import DeviceQuery, DeviceView
from registry.contracts.api.fleet import ConnectionState
from registry.contracts.wire import Name, VersionName
from registry.errors import InvalidError, NotFoundError
from registry.pictures.bare import PictureError, sniff
from registry.pictures.size import shown_size
from registry.server.composition import Services
from registry.server.console import signing_in
from registry.server.console.asking import ANSWER_S, ask
from registry.server.console.forms import Form, FormDep, parsed
from registry.server.console.rendering import go, page
from registry.server.console.sections import NavEntry
from registry.server.console.trials import AskedSlot, Picture, TrialRequest, Trials
from registry.server.console.visitors import Deploying, Visitor
from registry.server.device_pages import device_page
from registry.server.middleware.auth import ServicesDep, services_of
from registry.server.middleware.paging import Paging

router = APIRouter()
PATH = "/try"
SECTION = NavEntry("Try it", PATH, "try", router, Scope.DEPLOY)
MAX_BYTES = 16 << 20
"""Of a picture with its form."""
MAX_SUGGESTED = 200
_NAME: TypeAdapter[object] = TypeAdapter(Name)
_VERSION: TypeAdapter[object] = TypeAdapter(VersionName)
_Text = Annotated[str, Field(max_length=129)]


async def most_bytes(request: Request) -> int:
    """Of the form with a picture: see `BodyLimits`."""
    most = await signing_in.most_bytes(request)
    visitor = getattr(request.state, "visitor", None)
    if not most or not isinstance(visitor, Visitor) or not visitor.may(Scope.DEPLOY):
        return most
    return max(services_of(request).config.limits.json_bytes, MAX_BYTES)


class TryQuery(BaseModel):
    """Whom to ask, as the address says it: a device or a pool, and MODEL or MODEL@VERSION; twice for two."""

    device: _Text = ""
    pool: _Text = ""
    model: _Text = ""
    device2: _Text = ""
    pool2: _Text = ""
    model2: _Text = ""


@router.get(PATH)
def form(request: Request, services: ServicesDep, _who: Deploying, wanted: Annotated[TryQuery, Query()]) -> Response:
    """The form."""
    first = _asked(wanted.device, wanted.pool, wanted.model)
    return _page(request, services, [first, _asked(wanted.device2, wanted.pool2, wanted.model2)], None)


@router.post(PATH)
def send(request: Request, services: ServicesDep, who: Deploying, fields: FormDep) -> Response:
    """Ask, and show the answers."""
    targets = [target for number in ("", "2") if (target := _target(fields, number)) is not None]
    if not targets:
        raise InvalidError("Say which device, or which pool, is to be asked for which model.")
    if not services.config.mqtt.enabled:
        raise InvalidError("This registry has no broker, so no device can be asked: set mqtt.host.")
    trials, owner, now = _trials(request), _owner(who), services.clock()
    picture, text = _given(fields, trials, owner, services)
    given: dict[str, Any] = {"picture": picture.data} if picture is not None else _request(text, targets)
    with trials.under_way(owner):
        outcomes = ask(services.config.mqtt, targets, given)
    trial = trials.keep(owner, now, picture, text if picture is None else "", outcomes)
    return go(f"{PATH}/{trial.id}")


@router.get(PATH + "/{trial}")
def show(request: Request, trial: str, services: ServicesDep, who: Deploying) -> Response:
    """The answers, and the form to ask again."""
    found = _trials(request).get(trial, _owner(who), services.clock())
    asked = [_shown_target(outcome.target) for outcome in found.outcomes]
    return _page(request, services, [*asked, _asked("", "", "")][:2], found)


@router.get(PATH + "/{trial}/picture")
def picture_of(request: Request, trial: str, services: ServicesDep, who: Deploying) -> Response:
    """The picture of a trial, to whoever sent it."""
    found = _trials(request).get(trial, _owner(who), services.clock()).picture
    if found is None:
        raise NotFoundError("This trial has no picture.")
    return Response(found.data, media_type=found.media_type)


def _trials(request: Request) -> Trials:
    found: Trials = request.app.state.trials
    return found


def _owner(who: Visitor) -> int:
    assert who.session is not None  # noqa: S101 - nobody may do this without signing in
    return who.session.id


def _page(request: Request, services: Services, asked: list[dict[str, Any]], trial: TrialRequest | None) -> Response:
    query = DeviceQuery(state=[ConnectionState.ONLINE, ConnectionState.LATE], brief=True)
    online = device_page(services, Paging(MAX_SUGGESTED, None), query).items
    versions = services.fleet.figures.summary(services.clock()).versions
    served = sorted({f"{each.model}@{each.version}" for each in versions if each.version is not None})
    models = sorted({each.model for each in versions if each.version is not None})
    return page(
        request,
        "try.html",
        asked=asked,
        trial=trial,
        devices=[each.name for each in online],
        references=[*models, *served][:MAX_SUGGESTED],
        chosen=_chosen(services, asked[0]),
        broker=services.config.mqtt.enabled,
        most_mib=MAX_BYTES >> 20,
        answer_s=ANSWER_S,
    )


def _chosen(services: Services, asked: dict[str, Any]) -> DeviceView | None:
    """The device that is to be asked first, where it is known: what it serves."""
    if asked["pool"] or not asked["name"]:
        return None
    try:
        return services.fleet.devices.view(asked["name"], services.clock())
    except NotFoundError:
        return None


def _asked(device: str, pool: str, model: str) -> dict[str, Any]:
    return {"name": pool or device, "pool": bool(pool), "model": model}


def _shown_target(target: AskedSlot) -> dict[str, Any]:
    return {"name": target.name, "pool": target.pool, "model": target.reference}


def _target(fields: Form, number: str) -> AskedSlot | None:
    """One of the two; None: its fields are empty. Raises InvalidError."""
    name, reference = fields.text("name" + number), fields.text("model" + number)
    if not reference and (number or not name):
        return None
    if number and not name:
        name, number = fields.text("name"), ""  # the same device, another model
    model, _, version = reference.partition("@")
    return AskedSlot(
        name=str(parsed(_NAME, name, "The device or pool")),
        pool=fields.text("kind" + number) == "pool",
        model=str(parsed(_NAME, model, "The model")),
        version=str(parsed(_VERSION, version, "The version")) if version else "",
    )


def _given(fields: Form, trials: Trials, owner: int, services: Services) -> tuple[Picture | None, str]:
    """A picture, or a request as JSON: a new one of either goes before the picture that was sent before."""
    upload, text = fields.file("picture"), fields.text("request")
    if upload is not None and text:
        raise InvalidError("Send a picture or a request, not both: clear one of them.")
    if upload is not None:
        return _picture(upload.file.read(MAX_BYTES + 1)), ""
    if text:
        return None, text
    before = fields.text("again")
    found = trials.get(before, owner, services.clock()).picture if before else None
    if found is None:
        raise InvalidError("Nothing to send: choose a picture, or write a request as JSON.")
    return found, ""


def _picture(data: bytes) -> Picture:
    kind = sniff(data)
    if not kind:
        raise InvalidError("The file is no picture that models take: send a JPEG or a PNG.")
    try:
        width, height = shown_size(data)
    except PictureError as error:
        raise InvalidError(f"The picture cannot be read: {error}.") from error
    return Picture(data, kind, width, height)


def _request(text: str, targets: list[AskedSlot]) -> dict[str, Any]:
    try:
        given = request_of_json(text)
    except ValueError as error:
        raise InvalidError(f"The request cannot be sent: {error}.") from error
    for what in ("model", "version"):
        said = given.pop(what, None)
        told = {getattr(target, what) or said for target in targets}
        if said is not None and told != {said}:
            raise InvalidError(
                f"The request names the {what} {said!r}, and the form another one: leave one of them out."
            )
        if said is not None and what == "version":
            given["version"] = said
    return given
