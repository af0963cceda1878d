"""What waits for a person: plans of rollouts that need an approval."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response

from registry.contracts.rollout.states import RolloutState
from registry.server.console.rendering import page
from registry.server.console.sections import NavEntry
from registry.server.console.visitors import Reading
from registry.server.middleware.auth import ServicesDep
from registry.server.middleware.paging import PagingDep

router = APIRouter()
SECTION = NavEntry("Approvals", "/approvals", "approvals", router)


@router.get("/approvals")
def approvals(request: Request, services: ServicesDep, paging: PagingDep, who: Reading) -> Response:
    """Newest first. Who made a plan may not approve it where two people are required."""
    found = paging.newest("approvals", partial(services.fleet.rollouts.page, None, RolloutState.AWAITING_APPROVAL))
    two_person = services.config.rollouts.two_person
    return page(
        request, "approvals.html", live=True, rollouts=found.items, next=found.next, two_person=two_person, me=who.name
    )
