"""Groups: named sets of devices."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from registry.contracts.api.answers import Page
from registry.contracts.paths import API
from registry.contracts.rollout.spec import GroupBody, GroupView
from registry.contracts.wire import Name
from registry.server.middleware.auth import Deployer, Reader, ServicesDep
from registry.server.middleware.paging import PagingDep

router = APIRouter(prefix=API, tags=["groups"])
GroupName = Annotated[Name, Path()]


@router.get("/groups")
def list_groups(services: ServicesDep, paging: PagingDep, _who: Reader) -> Page[GroupView]:
    """Groups by name, each with how many devices are in it now."""
    found = services.fleet.groups.page(paging.start("groups", ""), paging.limit + 1)
    return paging.page("groups", found, lambda group: group.name)


@router.get("/groups/{group}")
def get_group(group: GroupName, services: ServicesDep, _who: Reader) -> GroupView:
    """One group."""
    return services.fleet.groups.get(group)


@router.put("/groups/{group}")
def put_group(group: GroupName, body: GroupBody, services: ServicesDep, _who: Deployer) -> GroupView:
    """Make a group or change it; rollouts that run take in who is new in it."""
    return services.fleet.groups.put(group, body, services.clock())


@router.delete("/groups/{group}", status_code=204)
def delete_group(group: GroupName, services: ServicesDep, _who: Deployer) -> None:
    """Forget a group, when no rollout that is not over names it."""
    services.fleet.groups.delete(group)
