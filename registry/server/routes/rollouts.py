"""Rollouts: made as a draft, submitted, planned, approved, run; and what became of every device."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response

from registry.contracts.api.answers import Page
from registry.contracts.paths import API
from registry.contracts.rollout.spec import RolloutSpec
from registry.contracts.rollout.states import ActionState, RolloutState
from registry.contracts.rollout.views import ActionView, Approval, CommandBody, HistoryEntry, PlanView, RolloutView
from registry.contracts.wire import Name
from registry.errors import InvalidError
from registry.server.middleware import etags
from registry.server.middleware.auth import Deployer, Reader, ServicesDep
from registry.server.middleware.paging import NEWEST, PagingDep

router = APIRouter(prefix=API, tags=["rollouts"])
RolloutName = Annotated[Name, Path(description="Its id or its name")]
Key = Annotated[str | None, Header(alias="Idempotency-Key", description="The same key again: the first answer again")]


@router.get("/rollouts")
def list_rollouts(
    services: ServicesDep,
    paging: PagingDep,
    _who: Reader,
    model: Annotated[Name | None, Query()] = None,
    state: Annotated[RolloutState | None, Query()] = None,
) -> Page[RolloutView]:
    """Rollouts, newest first."""
    found = services.fleet.rollouts.page(model, state, paging.start("rollouts", NEWEST), paging.limit + 1)
    page = paging.page("rollouts", found, lambda item: item[0])
    return Page[RolloutView](items=tuple(view for _, view in page.items), next=page.next)


@router.post("/rollouts", status_code=201)
def create_rollout(
    body: RolloutSpec, services: ServicesDep, response: Response, who: Deployer, key: Key = None
) -> RolloutView:
    """A draft. Nothing happens before it is submitted."""
    _require_known(body)
    return _tagged(services.fleet.rollouts.create(body, key, who.name, services.clock()), response)


@router.get("/rollouts/{rollout}")
def get_rollout(rollout: RolloutName, services: ServicesDep, response: Response, _who: Reader) -> RolloutView:
    """Where it is and why, what can be asked of it, its waves with their gates. Its ETag is its revision."""
    return _tagged(services.fleet.rollouts.get(rollout, services.clock()), response)


@router.put("/rollouts/{rollout}", responses={201: {"model": RolloutView}})
def apply_rollout(
    rollout: RolloutName, body: RolloutSpec, services: ServicesDep, response: Response, who: Deployer
) -> RolloutView:
    """The rollout of that name is this one: 201 when it is new; the same again changes nothing; a draft is changed."""
    _require_known(body)
    view, created = services.fleet.rollouts.apply(rollout, body, who.name, services.clock())
    if created:
        response.status_code = 201
    return _tagged(view, response)


@router.get("/rollouts/{rollout}/plan")
def get_plan(rollout: RolloutName, services: ServicesDep, _who: Reader) -> PlanView:
    """Who gets which variant, in which wave, and who nothing and why. Of a draft: as it would be now."""
    return services.fleet.rollouts.plan(rollout, services.clock())


@router.post("/rollout-plans")
def plan_rollout(body: RolloutSpec, services: ServicesDep, _who: Reader) -> PlanView:
    """What a rollout would do. Nothing is kept."""
    _require_known(body)
    return services.fleet.rollouts.plan_only(body, services.clock())


@router.post("/rollouts/{rollout}/commands")
def command_rollout(  # noqa: PLR0917 - called by the framework, by name
    rollout: RolloutName, body: CommandBody, services: ServicesDep, response: Response, who: Deployer, key: Key = None
) -> RolloutView:
    """submit, pause, resume, abort, rollback, retry or delete; 409 names what is legal, 412: another revision."""
    return _tagged(services.fleet.rollouts.command(rollout, body, key, who.name, services.clock()), response)


@router.post("/rollouts/{rollout}/approval")
def approve_rollout(  # noqa: PLR0917 - called by the framework, by name
    rollout: RolloutName, body: Approval, services: ServicesDep, response: Response, who: Deployer, key: Key = None
) -> RolloutView:
    """Approve the plan with this digest, or deny it; 412 when the plan is another one, 403 when it needs another."""
    return _tagged(services.fleet.rollouts.approve(rollout, body, key, who.name, services.clock()), response)


@router.get("/rollouts/{rollout}/devices")
def list_rollout_devices(
    rollout: RolloutName,
    services: ServicesDep,
    paging: PagingDep,
    _who: Reader,
    state: Annotated[ActionState | None, Query()] = None,
    wave: Annotated[int | None, Query(ge=0, le=1000)] = None,
) -> Page[ActionView]:
    """Its devices by name, each with why it is where it is."""
    listing = f"rollout-devices/{rollout}"
    chosen = state.value if state is not None else None
    start = paging.start(listing, "")
    found = services.fleet.rollouts.devices(rollout, chosen, wave, start, paging.limit + 1, services.clock())
    return paging.page(listing, found, lambda action: action.device)


@router.get("/rollouts/{rollout}/devices/{device}")
def get_rollout_device(
    rollout: RolloutName, device: Annotated[Name, Path()], services: ServicesDep, _who: Reader
) -> ActionView:
    """One device: why it is where it is, and every step that it took."""
    return services.fleet.rollouts.device(rollout, device, services.clock())


@router.get("/rollouts/{rollout}/history")
def rollout_history(rollout: RolloutName, services: ServicesDep, paging: PagingDep, _who: Reader) -> Page[HistoryEntry]:
    """Every transition, newest first: who, what, when, why."""
    listing = f"rollout-history/{rollout}"
    found = services.fleet.rollouts.history(rollout, paging.start(listing, NEWEST), paging.limit + 1)
    page = paging.page(listing, found, lambda item: item[0])
    return Page[HistoryEntry](items=tuple(entry for _, entry in page.items), next=page.next)


def _require_known(spec: RolloutSpec) -> None:
    """What a person misspelt must not silently keep its default. Specs in the database may have fields of later days.

    Raises:
        InvalidError: it has fields that this registry does not know; `errors` names them.
    """
    unknown = spec.unknown_fields()
    if unknown:
        raise InvalidError("The rollout has fields that this registry does not know; are they misspelt?", unknown)


def _tagged(view: RolloutView, response: Response) -> RolloutView:
    response.headers["ETag"] = etags.quoted(str(view.revision))
    response.headers["Cache-Control"] = "no-cache"
    return view
