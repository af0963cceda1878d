"""Which variant a device would run and why; what a version means for a fleet; the same for imagined facts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from registry.contracts.api.answers import Scope
from registry.contracts.fit.choices import MAX_CHANGES, CoverageView, ResolutionView, ResolveBody
from registry.contracts.paths import API
from registry.contracts.rollout.spec import MAX_SELECTOR_CHARS
from registry.contracts.wire import Name, VersionName
from registry.errors import InvalidError
from registry.server.middleware.auth import Caller, Reader, ServicesDep

router = APIRouter(prefix=API, tags=["choice"])
DeviceName = Annotated[Name, Path()]
Text = Annotated[str, Query(max_length=256)]


@router.get("/devices/{device}/resolution")
def explain_device(  # noqa: PLR0917 - called by the framework, by name
    device: DeviceName,
    services: ServicesDep,
    who: Caller,
    model: Annotated[Name, Query()],
    version: Annotated[VersionName, Query(description="Or an alias")],
    variant: Annotated[Name | None, Query(description="Only this one may be chosen")] = None,
    what_if: Annotated[list[Text] | None, Query(max_length=MAX_CHANGES, description="`fact=value`")] = None,
) -> ResolutionView:
    """Which variant of the version the device would run, and why none of the others; the device itself may ask too."""
    who.require_device_or(Scope.READ, device)
    changes = dict(_change(text) for text in what_if or ())
    body = ResolveBody(model=model, version=version, device=device, variant=variant, what_if=changes)
    return services.fleet.coverage.resolution(body)


@router.get("/models/{model}/versions/{version}/coverage")
def cover_fleet(
    model: Annotated[Name, Path()],
    version: Annotated[VersionName, Path()],
    services: ServicesDep,
    _who: Reader,
    selector: Annotated[str, Query(max_length=MAX_SELECTOR_CHARS, description="Of devices, by label; else all")] = "",
) -> CoverageView:
    """What each class of devices would run of the version, and which can run nothing."""
    return services.fleet.coverage.coverage(model, version, selector)


@router.post("/resolve")
def resolve_facts(body: ResolveBody, services: ServicesDep, _who: Reader) -> ResolutionView:
    """Which variant a host with these facts would run. Nothing is kept."""
    return services.fleet.coverage.resolution(body)


def _change(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise InvalidError(f"`what_if` is `fact=value`, like cann=8.2; not {text[:100]!r}.")
    return name, value
