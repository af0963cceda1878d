"""Webhooks: where events are POSTed, signed. The URL may be a secret, so that only those who deploy may read it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from registry.contracts.api.answers import Page
from registry.contracts.paths import API
from registry.contracts.rollout.views import WebhookCreate, WebhookCreated, WebhookView
from registry.contracts.wire import Name
from registry.server.middleware.auth import Deployer, ServicesDep
from registry.server.middleware.paging import PagingDep

router = APIRouter(prefix=API, tags=["webhooks"])
HookName = Annotated[Name, Path()]


@router.get("/webhooks")
def list_webhooks(services: ServicesDep, paging: PagingDep, _who: Deployer) -> Page[WebhookView]:
    """Webhooks by name, and how delivery goes."""
    found = services.fleet.webhooks.page(paging.start("webhooks", ""), paging.limit + 1)
    return paging.page("webhooks", found, lambda hook: hook.name)


@router.get("/webhooks/{name}")
def get_webhook(name: HookName, services: ServicesDep, _who: Deployer) -> WebhookView:
    """One webhook, and how delivery goes."""
    return services.fleet.webhooks.get(name)


@router.put("/webhooks/{name}", responses={201: {"model": WebhookCreated}})
def put_webhook(
    name: HookName, body: WebhookCreate, services: ServicesDep, response: Response, _who: Deployer
) -> WebhookCreated | WebhookView:
    """Make one, which answers 201 with the secret that signs its events, once; or change it, and try again at once."""
    answer = services.fleet.webhooks.put(name, body, services.clock())
    if isinstance(answer, WebhookCreated):
        response.status_code = 201
        response.headers["Cache-Control"] = "no-store"
    return answer


@router.delete("/webhooks/{name}", status_code=204)
def delete_webhook(name: HookName, services: ServicesDep, _who: Deployer) -> None:
    """Forget one."""
    services.fleet.webhooks.delete(name)
