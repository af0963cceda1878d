"""Aliases: movable names for versions, moved by compare-and-set on their revision."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from registry.contracts.api.answers import Page
from registry.contracts.api.versions import AliasMove, AliasView
from registry.contracts.paths import API
from registry.contracts.wire import Name
from registry.server.middleware import etags
from registry.server.middleware.auth import CatalogReader, Publisher, ServicesDep
from registry.server.middleware.paging import NEWEST, PagingDep
from registry.server.routes.models import ModelName

Alias = Annotated[Name, Path()]
router = APIRouter(prefix=API, tags=["aliases"])


@router.get("/models/{model}/aliases")
def list_aliases(model: ModelName, services: ServicesDep, paging: PagingDep, _who: CatalogReader) -> Page[AliasView]:
    """All aliases of a model by name."""
    listing = f"aliases {model}"
    found = services.aliases.page(model, paging.start(listing, ""), paging.limit + 1)
    return paging.page(listing, found, lambda alias: alias.alias)


@router.get("/models/{model}/aliases/{alias}")
def get_alias(
    model: ModelName, alias: Alias, services: ServicesDep, response: Response, _who: CatalogReader
) -> AliasView:
    """Where it points. Its ETag is its revision, for `If-Match`."""
    return _tagged(services.aliases.get(model, alias), response)


@router.put("/models/{model}/aliases/{alias}")
def move_alias(  # noqa: PLR0917 - called by the framework, by name
    model: ModelName,
    alias: Alias,
    body: AliasMove,
    request: Request,
    services: ServicesDep,
    response: Response,
    who: Publisher,
) -> AliasView:
    """Point it to a version: `If-Match: "<revision>"` to move it, `If-None-Match: *` to make it; 412 when too late."""
    seen = etags.expected_revision(request, required=True)
    moved = services.aliases.move(model, alias, body.version, seen=seen, by=who.name, now=services.clock())
    return _tagged(moved, response)


@router.delete("/models/{model}/aliases/{alias}", status_code=204)
def remove_alias(model: ModelName, alias: Alias, request: Request, services: ServicesDep, who: Publisher) -> None:
    """End it; its history stays. With If-Match only if nobody moved it since."""
    seen = etags.expected_revision(request, required=False)
    services.aliases.remove(model, alias, seen=seen, by=who.name, now=services.clock())


@router.get("/models/{model}/aliases/{alias}/history")
def alias_history(
    model: ModelName, alias: Alias, services: ServicesDep, paging: PagingDep, _who: CatalogReader
) -> Page[AliasView]:
    """Every move, newest first; a removal has no version."""
    listing = f"history {model} {alias}"
    found = services.aliases.history(model, alias, paging.start(listing, NEWEST), paging.limit + 1)
    return paging.page(listing, found, lambda move: move.revision)


def _tagged(view: AliasView, response: Response) -> AliasView:
    response.headers["ETag"] = etags.quoted(str(view.revision))
    response.headers["Cache-Control"] = "no-cache"
    return view
