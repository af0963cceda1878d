"""Recorded results."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from registry.contracts.api.answers import Page
from registry.contracts.api.devices import ResultView
from registry.contracts.paths import API
from registry.contracts.wire import Name
from registry.server.middleware.auth import Reader, ServicesDep
from registry.server.middleware.paging import NEWEST, PagingDep

router = APIRouter(prefix=API, tags=["results"])


@router.get("/results")
def list_results(
    services: ServicesDep,
    paging: PagingDep,
    _who: Reader,
    device: Annotated[Name | None, Query()] = None,
    model: Annotated[Name | None, Query()] = None,
) -> Page[ResultView]:
    """Results of models that are recorded, newest first."""
    found = services.fleet.results.page(device, model, paging.start("results", NEWEST), paging.limit + 1)
    return paging.page("results", found, lambda result: result.id)
