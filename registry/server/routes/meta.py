"""Is it alive, can it work, what does it count; and the tokens that administrators make, list and revoke."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from registry.contracts.api.answers import AboutView, ConsoleLink, Page, TokenCreate, TokenCreated, TokenView
from registry.contracts.api.approvals import ChangeDecision, ChangeState, ChangeView
from registry.contracts.api.upkeep import DiagnosisView, DiskView
from registry.contracts.paths import API
from registry.contracts.wire import Name
from registry.errors import UnauthorizedError
from registry.server.diagnosis import diagnose
from registry.server.middleware.auth import Administrator, Approver, CatalogReader, Reader, ServicesDep
from registry.server.middleware.paging import PagingDep
from registry.server.readiness import WORKS
from registry.services.access.principals import ANONYMOUS

tokens = APIRouter(prefix=API, tags=["tokens"])
meta = APIRouter(tags=["meta"])


@tokens.get("/tokens")
def list_tokens(services: ServicesDep, paging: PagingDep, _who: Administrator) -> Page[TokenView]:
    """All tokens but devices' credentials, by name."""
    return paging.answer("tokens", "", services.tokens.page, lambda token: token.name)


@tokens.post("/tokens", status_code=201)
def create_token(body: TokenCreate, services: ServicesDep, response: Response, who: Administrator) -> TokenCreated:
    """A new token; its secret is shown only in this answer."""
    response.headers["Cache-Control"] = "no-store"
    return services.tokens.create(body, who.name, services.clock())


@tokens.delete("/tokens/{name}", status_code=204)
def revoke_token(name: Name, services: ServicesDep, _who: Administrator) -> None:
    """The token works no more, at once."""
    services.tokens.revoke(name, services.clock())


@tokens.post("/console-links", status_code=201)
def create_console_link(services: ServicesDep, response: Response, who: Reader) -> ConsoleLink:
    """A link that signs in at the console once, as the token that asks for it."""
    if who is ANONYMOUS:
        raise UnauthorizedError("This needs a token: the link signs in as whoever asks for it.")
    response.headers["Cache-Control"] = "no-store"
    return services.sessions.link(who.name, services.clock())


@tokens.get("/approvals")
def list_approvals(
    services: ServicesDep, paging: PagingDep, _who: Reader, state: ChangeState | None = None
) -> Page[ChangeView]:
    """Changes that wait, or waited, for a second person, newest first. Plans of rollouts stand with the rollouts."""
    return paging.newest(f"approvals {state}", partial(services.rule.page, state))


@tokens.post("/approvals/{change}")
def decide_change(change: Name, body: ChangeDecision, services: ServicesDep, who: Approver) -> ChangeView:
    """Approve it, as another person than whoever asked, or deny it. It is done when whoever asked does it again."""
    return services.rule.decide(change, body, who, services.clock())


@tokens.get("/about")
def about(services: ServicesDep, _who: CatalogReader) -> AboutView:
    """Which program this is, and what time it has."""
    return AboutView(
        version=version("modelfleet"),
        instance=services.config.instance,
        now=services.clock(),
        started_at=services.started_at,
        open_reading=services.config.access.open_reading,
    )


@tokens.get("/disk")
def disk(services: ServicesDep, _who: Reader) -> DiskView:
    """What takes the room, counted at most every half minute: `at` says when."""
    return services.disk_use.view(services.clock())


@tokens.get("/diagnosis")
async def diagnosis(services: ServicesDep, _who: Administrator) -> DiagnosisView:
    """What works and what does not, found out now: a write to the database and the disk, a message to the broker."""
    return await diagnose(services)


@meta.get("/healthz", include_in_schema=False)
async def healthz() -> dict[str, str]:
    """The process answers. Open to everybody: it says nothing else."""
    return {"status": "ok"}


@meta.get("/readyz", include_in_schema=False)
async def readyz(services: ServicesDep) -> Response:
    """Whether it can do all of its work now: 503 when the database or the blobs take no writes, and why.

    A broker that is away is said, but stops nobody from using the rest.
    """
    found = await services.readiness.look()
    ready = all(state == WORKS for state in found.values())
    bridge = services.fleet.bridge
    body: dict[str, object] = {
        "status": "ready" if ready else "not ready",
        **found,
        "damaged_blobs": services.checks.known_damaged,
        "mqtt": "off" if bridge is None else bridge.problem or "connected",
    }
    headers = {"Cache-Control": "no-store", **({} if ready else {"Retry-After": "5"})}
    return JSONResponse(body, 200 if ready else 503, headers)


@meta.get("/metrics", include_in_schema=False)
def metrics(_who: Reader) -> Response:
    """Prometheus text."""
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
