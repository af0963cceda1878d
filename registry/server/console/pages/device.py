"""One device: what it should serve and serves, why, and what happened to it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from registry.contracts.wire import Name
from registry.server.console.rendering import page
from registry.server.console.visitors import Reading
from registry.server.middleware.auth import ServicesDep

router = APIRouter()


@router.get("/devices/{device}")
def show(request: Request, device: Name, services: ServicesDep, _who: Reading) -> Response:
    """The page."""
    view = services.fleet.devices.view(device, services.clock())
    return page(request, "device.html", live=True, device=view, active="/fleet")
