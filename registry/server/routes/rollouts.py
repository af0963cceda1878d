"""Rollouts: made as a draft, submitted, planned, approved, run; what became of every device; groups and webhooks.

The URL of a webhook may be a secret, and it hears of the whole fleet: only deployers of all of it may read or set it.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response

from registry.contracts.api.answers import Page
from registry.contracts.paths import API
from registry.contracts.rollout.spec import GroupBody, GroupView, RolloutSpec
from registry.contracts.rollout.states import ActionState, RolloutState
from registry.contracts.rollout.views import (
    ActionView,
    Approval,
    CommandBody,
    HistoryEntry,
    PlanView,
    RolloutView,
    WebhookCreate,
    WebhookCreated,
    WebhookView,
)
from registry.contracts.wire import Name
from registry.errors import InvalidError
from registry.server.middleware.auth import Approver, Deployer, FleetDeployer, Reader, ServicesDep
from registry.server.middleware.etags import tagged
from registry.server.middleware.paging import PagingDep

groups = APIRouter(prefix=API, tags=["groups"])
rollouts = APIRouter(prefix=API, tags=["rollouts"])
webhooks = APIRouter(prefix=API, tags=["webhooks"])
RolloutName = Annotated[Name, Path(description="Its id or its name")]
Key = Annotated[str | None, Header(alias="Idempotency-Key", description="The same key again: the first answer again")]


@groups.get("/groups")
def list_groups(services: ServicesDep, paging: PagingDep, _who: Reader) -> Page[GroupView]:
    """Groups by name, each with how many devices are in it now."""
    return paging.answer("groups", "", services.fleet.groups.page, lambda group: group.name)


@groups.get("/groups/{group}")
def get_group(group: Name, services: ServicesDep, _who: Reader) -> GroupView:
    """One group."""
    return services.fleet.groups.get(group)


@groups.put("/groups/{group}")
def put_group(group: Name, body: GroupBody, services: ServicesDep, _who: Deployer) -> GroupView:
    """Make a group or change it; rollouts that run take in who is new in it."""
    return services.fleet.groups.put(group, body, services.clock())


@groups.delete("/groups/{group}", status_code=204)
def delete_group(group: Name, services: ServicesDep, _who: Deployer) -> None:
    """Forget a group, when no rollout that is not over names it."""
    services.fleet.groups.delete(group)


@rollouts.get("/rollouts")
def list_rollouts(
    services: ServicesDep, paging: PagingDep, _who: Reader, model: Name | None = None, state: RolloutState | None = None
) -> Page[RolloutView]:
    """Rollouts, newest first."""
    return paging.newest("rollouts", partial(services.fleet.rollouts.page, model, state))


@rollouts.post("/rollouts", status_code=201)
def create_rollout(
    body: RolloutSpec, services: ServicesDep, response: Response, who: Deployer, key: Key = None
) -> RolloutView:
    """A draft. Nothing happens before it is submitted."""
    _require_known(body)
    return tagged(services.fleet.rollouts.create(body, key, who.name, services.clock()), response)


@rollouts.get("/rollouts/{rollout}")
def get_rollout(rollout: RolloutName, services: ServicesDep, response: Response, _who: Reader) -> RolloutView:
    """Where it is and why, what can be asked of it, its waves with their gates. Its ETag is its revision."""
    return tagged(services.fleet.rollouts.get(rollout, services.clock()), response)


@rollouts.put("/rollouts/{rollout}", responses={201: {"model": RolloutView}})
def apply_rollout(
    rollout: RolloutName, body: RolloutSpec, services: ServicesDep, response: Response, who: Deployer
) -> RolloutView:
    """The rollout of that name is this one: 201 when it is new; the same again changes nothing; a draft is changed."""
    _require_known(body)
    view, created = services.fleet.rollouts.apply(rollout, body, who.name, services.clock())
    if created:
        response.status_code = 201
    return tagged(view, response)


@rollouts.get("/rollouts/{rollout}/plan")
def get_plan(rollout: RolloutName, services: ServicesDep, _who: Reader) -> PlanView:
    """Who gets which variant, in which wave, and who nothing and why. Of a draft: as it would be now."""
    return services.fleet.rollouts.plan(rollout, services.clock())


@rollouts.post("/rollout-plans")
def plan_rollout(body: RolloutSpec, services: ServicesDep, _who: Reader) -> PlanView:
    """What a rollout would do. Nothing is kept."""
    _require_known(body)
    return services.fleet.rollouts.plan_only(body, services.clock())


@rollouts.post("/rollouts/{rollout}/commands")
def command_rollout(  # noqa: PLR0917 - called by the framework, by name
    rollout: RolloutName, body: CommandBody, services: ServicesDep, response: Response, who: Deployer, key: Key = None
) -> RolloutView:
    """submit, pause, resume, abort, rollback, retry or delete; 409 names what is legal, 412: another revision."""
    return tagged(services.fleet.rollouts.command(rollout, body, key, who.name, services.clock()), response)


@rollouts.post("/rollouts/{rollout}/approval")
def approve_rollout(  # noqa: PLR0917 - called by the framework, by name
    rollout: RolloutName, body: Approval, services: ServicesDep, response: Response, who: Approver, key: Key = None
) -> RolloutView:
    """Approve the plan with this digest, or deny it; 412 when the plan is another one, 403 when it needs another."""
    return tagged(services.fleet.rollouts.approve(rollout, body, key, who.name, services.clock()), response)


@rollouts.get("/rollouts/{rollout}/devices")
def list_rollout_devices(  # noqa: PLR0917 - called by the framework, by name
    rollout: RolloutName,
    services: ServicesDep,
    paging: PagingDep,
    _who: Reader,
    state: ActionState | None = None,
    wave: Annotated[int | None, Query(ge=0, le=1000, description="Or in it when it was told to go back")] = None,
    back: Annotated[bool | None, Query(description="Told to go back, or not")] = None,
    trouble: Annotated[bool, Query(description="Failed or silent, now or when it was told to go back")] = False,
    code: Annotated[
        str | None, Query(max_length=64, description="Its code, now or when it was told to go back")
    ] = None,
) -> Page[ActionView]:
    """Its devices by name, each with why it is where it is."""
    found = partial(
        services.fleet.rollouts.devices,
        rollout,
        state and state.value,
        wave,
        now=services.clock(),
        back=back,
        trouble=trouble,
        code=code,
    )
    return paging.answer(f"rollout-devices/{rollout}", "", found, lambda action: action.device)


@rollouts.get("/rollouts/{rollout}/devices/{device}")
def get_rollout_device(rollout: RolloutName, device: Name, services: ServicesDep, _who: Reader) -> ActionView:
    """One device: why it is where it is, and every step that it took."""
    return services.fleet.rollouts.device(rollout, device, services.clock())


@rollouts.get("/rollouts/{rollout}/history")
def rollout_history(rollout: RolloutName, services: ServicesDep, paging: PagingDep, _who: Reader) -> Page[HistoryEntry]:
    """Every transition, newest first: who, what, when, why."""
    return paging.newest(f"rollout-history/{rollout}", partial(services.fleet.rollouts.history, rollout))


def _require_known(spec: RolloutSpec) -> None:
    """What a person misspelt must not silently keep its default. Specs in the database may have fields of later days.

    Raises:
        InvalidError: it has fields that this registry does not know; `errors` names them.
    """
    unknown = spec.unknown_fields()
    if unknown:
        raise InvalidError("The rollout has fields that this registry does not know; are they misspelt?", unknown)


@webhooks.get("/webhooks")
def list_webhooks(services: ServicesDep, paging: PagingDep, _who: FleetDeployer) -> Page[WebhookView]:
    """Webhooks by name, and how delivery goes."""
    return paging.answer("webhooks", "", services.fleet.webhooks.page, lambda hook: hook.name)


@webhooks.get("/webhooks/{name}")
def get_webhook(name: Name, services: ServicesDep, _who: FleetDeployer) -> WebhookView:
    """One webhook, and how delivery goes."""
    return services.fleet.webhooks.get(name)


@webhooks.put("/webhooks/{name}", responses={201: {"model": WebhookCreated}})
def put_webhook(
    name: Name, body: WebhookCreate, services: ServicesDep, response: Response, _who: FleetDeployer
) -> WebhookCreated | WebhookView:
    """Make one, which answers 201 with the secret that signs its events, once; or change it, and try again at once."""
    answer = services.fleet.webhooks.put(name, body, services.clock())
    if isinstance(answer, WebhookCreated):
        response.status_code = 201
        response.headers["Cache-Control"] = "no-store"
    return answer


@webhooks.delete("/webhooks/{name}", status_code=204)
def delete_webhook(name: Name, services: ServicesDep, _who: FleetDeployer) -> None:
    """Forget one."""
    services.fleet.webhooks.delete(name)
