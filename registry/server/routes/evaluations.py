"""Proven equal and measured: parity by variant and device, validation sets, and what versions scored on them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from registry.contracts.api.answers import Page
from registry.contracts.api.versions import ParityView
from registry.contracts.evaluation.datasets import DatasetCreate, DatasetView, EvaluationCreate, EvaluationView
from registry.contracts.paths import API
from registry.contracts.wire import Name
from registry.server.middleware.auth import CatalogReader, Publisher, Reader, ServicesDep
from registry.server.middleware.paging import NEWEST, PagingDep
from registry.server.routes.models import ModelName
from registry.server.routes.versions import Version

DatasetName = Annotated[Name, Path()]
router = APIRouter(prefix=API, tags=["evaluations"])


@router.get("/models/{model}/versions/{version}/parity")
def list_parity(model: ModelName, version: Version, services: ServicesDep, _who: Reader) -> Page[ParityView]:
    """How each variant answered the golden vectors: on the publisher's machine, and on the devices; all at once."""
    return Page[ParityView](items=tuple(services.parity.of(model, version)))


@router.get("/models/{model}/versions/{version}/evaluations")
def list_evaluations(
    model: ModelName, version: Version, services: ServicesDep, paging: PagingDep, _who: Reader
) -> Page[EvaluationView]:
    """What the version scored, by variant and device; newest first."""
    listing = f"evaluations {model} {version}"
    found = services.evaluations.page(model, version, paging.start(listing, NEWEST), paging.limit + 1)
    return paging.page(listing, found, lambda view: view.id)


@router.post("/models/{model}/versions/{version}/evaluations", status_code=201)
def add_evaluation(
    model: ModelName, version: Version, body: EvaluationCreate, services: ServicesDep, who: Publisher
) -> EvaluationView:
    """Keep what a variant scored where no device was asked. Devices are asked with a job of kind `evaluate`."""
    return services.evaluations.add(model, version, body, who.name, services.clock())


@router.get("/datasets")
def list_datasets(services: ServicesDep, paging: PagingDep, _who: CatalogReader) -> Page[DatasetView]:
    """All validation sets by name."""
    found = services.datasets.page(paging.start("datasets", ""), paging.limit + 1)
    return paging.page("datasets", found, lambda view: view.name)


@router.get("/datasets/{name}")
def get_dataset(name: DatasetName, services: ServicesDep, _who: CatalogReader) -> DatasetView:
    """One validation set."""
    return services.datasets.get(name)


@router.put(
    "/datasets/{name}",
    status_code=201,
    responses={200: {"model": DatasetView, "description": "It was there already"}},
)
def publish_dataset(
    name: DatasetName, body: DatasetCreate, services: ServicesDep, response: Response, who: Publisher
) -> DatasetView:
    """Publish a validation set whose blob is there. It never changes."""
    view, created = services.datasets.publish(name, body, who.name, services.clock())
    if not created:
        response.status_code = 200
    return view


@router.delete("/datasets/{name}", status_code=204)
def delete_dataset(name: DatasetName, services: ServicesDep, _who: Publisher) -> None:
    """Remove a validation set; what was measured on it stays."""
    services.datasets.delete(name, services.clock())
