"""Tokens: administrators make, list and revoke them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from registry.contracts.api.answers import Page, TokenCreate, TokenCreated, TokenView
from registry.contracts.paths import API
from registry.contracts.wire import Name
from registry.server.middleware.auth import Administrator, ServicesDep
from registry.server.middleware.paging import PagingDep

router = APIRouter(prefix=API, tags=["tokens"])


@router.get("/tokens")
def list_tokens(services: ServicesDep, paging: PagingDep, _who: Administrator) -> Page[TokenView]:
    """All tokens but devices' credentials, by name."""
    found = services.tokens.page(paging.start("tokens", ""), paging.limit + 1)
    return paging.page("tokens", found, lambda token: token.name)


@router.post("/tokens", status_code=201)
def create_token(body: TokenCreate, services: ServicesDep, response: Response, _who: Administrator) -> TokenCreated:
    """A new token; its secret is shown only in this answer."""
    response.headers["Cache-Control"] = "no-store"
    return services.tokens.create(body.name, body.scope, services.clock())


@router.delete("/tokens/{name}", status_code=204)
def revoke_token(name: Annotated[Name, Path()], services: ServicesDep, _who: Administrator) -> None:
    """The token works no more, at once."""
    services.tokens.revoke(name)
