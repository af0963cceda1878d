"""What each slot of a device should serve."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from registry.contracts.api.answers import Page, Scope
from registry.contracts.api.devices import Deployment, DeploymentView
from registry.contracts.paths import API
from registry.contracts.wire import Name
from registry.server.middleware.auth import Caller, Deployer, ServicesDep
from registry.server.middleware.paging import PagingDep

router = APIRouter(prefix=API + "/devices/{device}/deployments", tags=["deployments"])
PathName = Annotated[Name, Path()]


@router.get("")
def list_deployments(device: PathName, services: ServicesDep, paging: PagingDep, who: Caller) -> Page[DeploymentView]:
    """The device's deployments by model."""
    who.require_device_or(Scope.READ, device)
    listing = f"deployments/{device}"
    found = services.fleet.deployments.page(device, paging.start(listing, ""), paging.limit + 1)
    return paging.page(listing, found, lambda deployment: deployment.model)


@router.put("/{model}")
def put_deployment(
    device: PathName, model: PathName, body: Deployment, services: ServicesDep, who: Deployer
) -> DeploymentView:
    """Set what the slot should serve: a version, or what an alias points to now. 409 when no variant fits."""
    return services.fleet.deployments.put(device, model, body, who.name, services.clock())


@router.delete("/{model}", status_code=204)
def delete_deployment(device: PathName, model: PathName, services: ServicesDep, who: Deployer) -> None:
    """The device should no longer serve the model."""
    services.fleet.deployments.remove(device, model, who.name, services.clock())
