"""Models and their settings."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from registry.contracts.api.answers import Page
from registry.contracts.api.versions import ModelSettings, ModelView
from registry.contracts.paths import API
from registry.contracts.wire import Name
from registry.server.middleware import etags
from registry.server.middleware.auth import CatalogReader, Publisher, ServicesDep
from registry.server.middleware.paging import PagingDep

ModelName = Annotated[Name, Path()]
router = APIRouter(prefix=API, tags=["models"])


@router.get("/models")
def list_models(services: ServicesDep, paging: PagingDep, _who: CatalogReader) -> Page[ModelView]:
    """All models by name, each with its newest version."""
    found = services.models.page(paging.start("models", ""), paging.limit + 1)
    return paging.page("models", found, lambda model: model.name)


@router.get("/models/{model}", response_model=ModelView)
def get_model(model: ModelName, request: Request, services: ServicesDep, _who: CatalogReader) -> Response:
    """One model; 304 when the client's ETag is still true."""
    return etags.answer(request, services.models.get(model))


@router.patch("/models/{model}")
def change_model(model: ModelName, body: ModelSettings, services: ServicesDep, _who: Publisher) -> ModelView:
    """Change settings; absent fields stay."""
    return services.models.change(model, body)


@router.delete("/models/{model}", status_code=204)
def delete_model(model: ModelName, services: ServicesDep, who: Publisher) -> None:
    """Remove a model with all its versions, when no device uses one."""
    services.models.delete(model, who.name, services.clock())
