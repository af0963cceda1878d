"""What devices say over HTTP instead of MQTT, with their own credential; and the counts of all of them."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from registry.contracts.api.answers import Page
from registry.contracts.api.devices import CountView, DeviceReports, ReportsTaken
from registry.contracts.fit.platforms import Platform
from registry.contracts.paths import API
from registry.contracts.wire import Name
from registry.errors import InvalidError
from registry.server.middleware.auth import Caller, Reader, ServicesDep
from registry.server.middleware.paging import PagingDep, is_text

router = APIRouter(prefix=API, tags=["telemetry"])
DeviceName = Annotated[Name, Path()]


@router.put("/devices/{device}/facts", status_code=204)
def put_facts(device: DeviceName, body: Platform, services: ServicesDep, who: Caller) -> None:
    """What the device found out about its host; new facts choose variants again."""
    who.require_device(device)
    services.fleet.telemetry.put_facts(device, body, services.clock())


@router.post(
    "/devices/{device}/reports",
    status_code=204,
    responses={200: {"model": ReportsTaken, "description": "Taken, and the registry asks for something."}},
)
def post_reports(device: DeviceName, body: DeviceReports, services: ServicesDep, who: Caller) -> Response:
    """Reported state, health and events, taken whole; the same again changes nothing."""
    who.require_device(device)
    if not services.fleet.telemetry.take_reports(device, body, services.clock()):
        return Response(status_code=204)
    return Response(ReportsTaken(facts_wanted=True).canonical(), media_type="application/json")


@router.get("/counts")
def list_counts(
    services: ServicesDep,
    paging: PagingDep,
    _who: Reader,
    device: Annotated[Name | None, Query()] = None,
    model: Annotated[Name | None, Query()] = None,
) -> Page[CountView]:
    """Requests by device, model and version."""
    key = _key(paging.start("counts", '["","",""]'))
    found = services.fleet.health.counts(device, model, key, paging.limit + 1)
    return paging.page("counts", found, lambda count: json.dumps([count.device, count.model, count.version]))


def _key(cursor: str) -> tuple[str, str, str]:
    try:
        device, model, version = json.loads(cursor)
    except (ValueError, TypeError, RecursionError):
        device = model = version = None
    if not all(isinstance(part, str) and is_text(part) for part in (device, model, version)):
        raise InvalidError("The cursor is not one that this list gave out; start without a cursor.")
    return device, model, version
