"""Webhooks: where the registry POSTs what rollouts do, and how delivery goes."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import TypeAdapter

from registry.contracts.rollout.views import WebhookCreate, WebhookCreated
from registry.contracts.wire import Name
from registry.server.console.filters import command_line
from registry.server.console.forms import FormDep, parsed
from registry.server.console.rendering import done, page
from registry.server.console.visitors import FleetDeploying
from registry.server.middleware.auth import ServicesDep
from registry.server.middleware.paging import PagingDep
from registry.services.webhooks import DEFAULT_KINDS, KINDS

router = APIRouter()
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_BODY: TypeAdapter[WebhookCreate] = TypeAdapter(WebhookCreate)
HOME = "/settings/webhooks"


@router.get(HOME)
def webhooks(request: Request, services: ServicesDep, paging: PagingDep, _who: FleetDeploying) -> Response:
    """All of them."""
    found = paging.answer("webhooks", "", services.fleet.webhooks.page, lambda hook: hook.name)
    return page(request, "webhooks.html", hooks=found.items, next=found.next, kinds=KINDS, default_kinds=DEFAULT_KINDS)


@router.get(HOME + "/{name}")
def webhook(request: Request, name: Name, services: ServicesDep, _who: FleetDeploying) -> Response:
    """One: how delivery goes, and its form."""
    view = services.fleet.webhooks.get(name)
    return page(request, "webhook.html", hook=view, kinds=KINDS, default_kinds=DEFAULT_KINDS)


@router.post(HOME)
def set_webhook(request: Request, services: ServicesDep, who: FleetDeploying, form: FormDep) -> Response:
    """Make one, whose secret stands in this answer and nowhere else; or change one, which tries again at once."""
    name = parsed(_NAME, form.text("name"), "The name")
    body = parsed(_BODY, {"url": form.text("url"), "kinds": form.texts("kind")}, "The webhook")
    answer = services.fleet.webhooks.put(name, body, services.clock())
    if isinstance(answer, WebhookCreated):
        return page(request, "secret.html", title=f"Webhook {name}", what="key", secret=answer.secret, back=HOME)
    return done(request, who, f"Webhook {name} is set; delivery goes on.", HOME)


@router.post(HOME + "/{name}/remove")
def remove_webhook(request: Request, name: Name, services: ServicesDep, who: FleetDeploying, form: FormDep) -> Response:
    """Forget it."""
    if form.ticked("confirmed"):
        services.fleet.webhooks.delete(name)
        return done(request, who, f"Webhook {name} is removed.", HOME)
    view = services.fleet.webhooks.get(name)
    return page(
        request,
        "confirm.html",
        title=f"Remove webhook {name}",
        back=HOME,
        action=f"{HOME}/{name}/remove",
        fields=(),
        facts=(("Events go to", view.url), ("Effect", "No event is delivered any more, and the key is forgotten.")),
        warnings=(),
        command=command_line("registry", "webhook", "remove", name),
        button="Remove",
        danger=True,
        reason=None,
    )
