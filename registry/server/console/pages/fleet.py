"""The fleet: all devices as a list, with filters that stand in the address."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from registry.contracts.api.devices import DeviceQuery
from registry.server.console.rendering import page
from registry.server.console.sections import Section
from registry.server.console.visitors import Reading
from registry.server.device_pages import device_page
from registry.server.middleware.auth import ServicesDep
from registry.server.middleware.paging import PagingDep

router = APIRouter()
SECTION = Section("Fleet", "/fleet", "fleet", router)


@router.get("/fleet")
def fleet(
    request: Request,
    services: ServicesDep,
    paging: PagingDep,
    _who: Reading,
    label: Annotated[list[str] | None, Query(max_length=16)] = None,
    online: bool | None = None,
) -> Response:
    """The list."""
    now = services.clock()
    found = device_page(services, paging, DeviceQuery(label=label or [], online=online, brief=True))
    there, away, _ = services.fleet.presence.count(now)
    return page(
        request, "fleet.html", live=True, devices=found.items, next=found.next, online=online, counts=(there, away)
    )
