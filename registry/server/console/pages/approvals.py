"""What waits for a person: plans of rollouts that need an approval, and changes for which two people are asked for."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response

from registry.contracts.api.approvals import ChangeDecision, ChangeState
from registry.contracts.rollout.states import RolloutState
from registry.contracts.wire import Name
from registry.errors import InvalidError
from registry.server.console.forms import FormDep
from registry.server.console.rendering import done, page
from registry.server.console.sections import NavEntry
from registry.server.console.visitors import Approving, Reading
from registry.server.middleware.auth import ServicesDep
from registry.server.middleware.paging import NEWEST, PagingDep

router = APIRouter()
SECTION = NavEntry("Approvals", "/approvals", "approvals", router)
MOST = 100


@router.get("/approvals")
def approvals(request: Request, services: ServicesDep, paging: PagingDep, who: Reading) -> Response:
    """Newest first. Who asked for something may not approve it where two people are required."""
    found = paging.newest("approvals", partial(services.fleet.rollouts.page, None, RolloutState.AWAITING_APPROVAL))
    changes = [change for _, change in services.rule.page(ChangeState.WAITING, NEWEST, MOST)]
    return page(
        request,
        "approvals.html",
        live=True,
        rollouts=found.items,
        next=found.next,
        two_person=services.rule.required,
        changes=[each for each in changes if each.expires_at > services.clock()],
        me=who.name,
        person=who.principal.person,
    )


@router.post("/approvals/{change}")
def decide(request: Request, change: Name, services: ServicesDep, who: Approving, form: FormDep) -> Response:
    """Approve a change, or deny it."""
    decision = form.text("decision")
    if decision not in ("approve", "deny"):
        raise InvalidError("Approve or deny?")
    body = ChangeDecision(approve=decision == "approve", note=form.text("reason")[:500])
    view = services.rule.decide(change, body, who.principal, services.clock())
    then = f" It happens when {view.asked_by} does the same again." if body.approve else ""
    told = f"{'Approved' if body.approve else 'Denied'}: {view.kind} {view.subject}.{then}"
    return done(request, who, told, "/approvals")
