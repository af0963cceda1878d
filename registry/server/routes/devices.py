"""Devices: registered and labelled by people, and what they said of themselves."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from registry.contracts.api.answers import Page, Scope
from registry.contracts.api.devices import DeviceCreate, DeviceCreated, DeviceView, HealthHour
from registry.contracts.device.messages import Event, Health
from registry.contracts.paths import API
from registry.contracts.wire import Name
from registry.errors import InvalidError
from registry.server.middleware.auth import Caller, Deployer, Reader, ServicesDep
from registry.server.middleware.paging import NEWEST, PagingDep

router = APIRouter(prefix=API, tags=["devices"])
DeviceName = Annotated[Name, Path()]
LAST_SECOND = int(datetime(9999, 1, 1, tzinfo=timezone.utc).timestamp())


@router.get("/devices")
def list_devices(
    services: ServicesDep,
    paging: PagingDep,
    _who: Reader,
    label: Annotated[list[str] | None, Query(max_length=16, description="`key=value`; all must match")] = None,
    online: Annotated[bool | None, Query(description="Only devices that are online, or only the others")] = None,
) -> Page[DeviceView]:
    """Devices by name."""
    labels = dict(_label(text) for text in label or ())
    found = services.fleet.devices.page(labels, online, paging.start("devices", ""), paging.limit + 1, services.clock())
    return paging.page("devices", found, lambda device: device.name)


@router.get("/devices/{device}")
def get_device(device: DeviceName, services: ServicesDep, who: Caller) -> DeviceView:
    """One device, as the registry knows it; the device itself may ask too."""
    who.require_device_or(Scope.READ, device)
    return services.fleet.devices.view(device, services.clock())


@router.put("/devices/{device}", responses={201: {"model": DeviceCreated}})
def put_device(
    device: DeviceName, body: DeviceCreate, services: ServicesDep, response: Response, _who: Deployer
) -> DeviceCreated | DeviceView:
    """Register a device, which answers 201 with its credential, once; or set its labels."""
    answer = services.fleet.devices.put(device, body.labels, services.clock())
    if isinstance(answer, DeviceCreated):
        response.status_code = 201
        response.headers["Cache-Control"] = "no-store"
    return answer


@router.delete("/devices/{device}", status_code=204)
def delete_device(device: DeviceName, services: ServicesDep, _who: Deployer) -> None:
    """Forget a device, its history and its credential."""
    services.fleet.devices.delete(device, services.clock())


@router.post("/devices/{device}/credential")
def rotate_credential(device: DeviceName, services: ServicesDep, response: Response, _who: Deployer) -> DeviceCreated:
    """A new credential; the old one works no more."""
    response.headers["Cache-Control"] = "no-store"
    return services.fleet.devices.rotate(device, services.clock())


@router.get("/devices/{device}/health")
def list_health(device: DeviceName, services: ServicesDep, paging: PagingDep, _who: Reader) -> Page[Health]:
    """Single health reports, newest first."""
    listing = f"health/{device}"
    found = services.fleet.health.page(device, paging.start(listing, NEWEST), paging.limit + 1)
    page = paging.page(listing, found, lambda item: item[0])
    return Page[Health](items=tuple(health for _, health in page.items), next=page.next)


@router.get("/devices/{device}/health/hours")
def list_hours(device: DeviceName, services: ServicesDep, paging: PagingDep, _who: Reader) -> Page[HealthHour]:
    """What stays of the hours whose single reports are gone, newest first."""
    listing = f"hours/{device}"
    start = min(paging.start(listing, LAST_SECOND), LAST_SECOND)
    before = datetime.fromtimestamp(start, tz=timezone.utc)
    found = services.fleet.health.hours(device, before, paging.limit + 1)
    return paging.page(listing, found, lambda hour: int(hour.hour.timestamp()))


@router.get("/devices/{device}/events")
def list_events(device: DeviceName, services: ServicesDep, paging: PagingDep, _who: Reader) -> Page[Event]:
    """Events, newest first."""
    listing = f"events/{device}"
    found = services.fleet.telemetry.events(device, paging.start(listing, NEWEST), paging.limit + 1)
    page = paging.page(listing, found, lambda item: item[0])
    return Page[Event](items=tuple(event for _, event in page.items), next=page.next)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or len(text) > 512:
        raise InvalidError(f"A label filter is `key=value`, not {text[:100]!r}.")
    return key, value
