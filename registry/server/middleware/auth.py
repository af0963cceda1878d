"""Who may ask: the holders of bearer tokens. Where a request comes from grants nothing, whether from this host or not.

`access.open_reading` lets everybody who reaches the registry read without a token; it is off by default.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from registry.contracts.api.answers import Scope
from registry.core.access import ROLE_OF
from registry.errors import ForbiddenError, UnauthorizedError
from registry.log_format import belongs_to
from registry.server.composition import Services
from registry.services.access.principals import ANONYMOUS, Actor, Principal, act_as

_bearer = HTTPBearer(auto_error=False, description="A token of this registry: `Authorization: Bearer mf_…`")


def services_of(request: Request) -> Services:
    """What the composition root built."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(services_of)]


async def caller(
    request: Request,
    services: ServicesDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Principal:
    """Who asks. Answers from memory where it can, so that it does not cost a thread.

    Raises:
        UnauthorizedError: no token where one is needed, or one that is not known.
    """
    if credentials is not None:
        now = services.clock()
        known = services.access.remembered(credentials.credentials, now)
        if known is None:
            known = await run_in_threadpool(services.access.authenticate, credentials.credentials, now)
        belongs_to(device=known.device)
        act_as(Actor(known, address_of(request)))
        return known
    if "authorization" in request.headers:
        raise UnauthorizedError("The Authorization header is not `Bearer <token>`.")
    if services.config.access.open_reading:
        act_as(Actor(ANONYMOUS, address_of(request)))
        return ANONYMOUS
    raise UnauthorizedError("This needs a token: `Authorization: Bearer <token>`.")


def address_of(request: Request) -> str:
    """Where a request comes from. A proxy of `access.proxies` is believed when it says so (`registry.server.run`)."""
    return request.client.host if request.client is not None else ""


def caller_name(request: Request, who: Principal) -> str:
    """Whose part of what is there for all it counts to: a token's, or without one that of the address."""
    if who is not ANONYMOUS:
        return who.name
    return f"address {request.client.host}" if request.client is not None else "an address that is not known"


async def caller_of(request: Request) -> Principal:
    """Who asks, outside of FastAPI's dependencies. Raises as `caller` does."""
    return await caller(request, services_of(request), await _bearer(request))


def _requiring(scope: Scope, *, everywhere: bool = False) -> Callable[..., Awaitable[Principal]]:
    """A dependency; where the path names a model, on this model. `everywhere`: on all models and devices."""

    async def require(request: Request, principal: Annotated[Principal, Depends(caller)]) -> Principal:
        if principal is ANONYMOUS and not principal.may(scope):
            raise UnauthorizedError(f"This needs a token with the role {ROLE_OF[scope]}.")
        require_right(request, principal, scope, everywhere=everywhere)
        return principal

    require.needs = Needs(scope, everywhere)  # type: ignore[attr-defined]
    return require


@dataclass(frozen=True)
class Needs:
    """What a route needs of who asks; docs/console-operations.md is made from it."""

    scope: Scope
    everywhere: bool = False
    """On all models and devices."""
    devices: bool = False
    """Every device may, too."""


def require_right(request: Request, principal: Principal, scope: Scope, *, everywhere: bool = False) -> None:
    """Raises ForbiddenError where this request's path needs a right that the principal lacks."""
    if everywhere:
        principal.require_everywhere(scope)
    else:
        principal.require(scope, request.path_params.get("model") if scope is not Scope.READ else None)


async def _catalog_reader(principal: Annotated[Principal, Depends(caller)]) -> Principal:
    if not principal.may(Scope.READ) and principal.device is None:
        raise ForbiddenError("This needs the role viewer, or a device's credential.")
    return principal


_catalog_reader.needs = Needs(Scope.READ, devices=True)  # type: ignore[attr-defined]


async def _uploader(principal: Annotated[Principal, Depends(caller)]) -> Principal:
    if principal.device is None:
        principal.require(Scope.PUBLISH)
    return principal


Uploader = Annotated[Principal, Depends(_uploader)]
"""Publishers, and devices: they begin uploads only of what a job of theirs has offered. A session has one owner."""
Caller = Annotated[Principal, Depends(caller)]
"""Anybody who is known; the route itself requires more: `principal.require_device(device)` and the like."""
CatalogReader = Annotated[Principal, Depends(_catalog_reader)]
"""Readers and every device: models, versions, manifests, blobs."""
Reader = Annotated[Principal, Depends(_requiring(Scope.READ))]
Publisher = Annotated[Principal, Depends(_requiring(Scope.PUBLISH))]
Deployer = Annotated[Principal, Depends(_requiring(Scope.DEPLOY))]
"""Which devices, the services check: `registry.services.access.permits`."""
FleetDeployer = Annotated[Principal, Depends(_requiring(Scope.DEPLOY, everywhere=True))]
"""Deployers of all models and devices: for what tells of, or touches, the whole fleet."""
Approver = Annotated[Principal, Depends(_requiring(Scope.APPROVE))]
Administrator = Annotated[Principal, Depends(_requiring(Scope.ADMIN))]
