"""The catalogue: models, versions, aliases, who would run which variant, and what was measured.

Aliases are movable names for versions, moved by compare-and-set on their revision. Measured are parity by variant and
device, and what versions scored on validation sets.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from registry.contracts.api.answers import Page, Scope
from registry.contracts.api.devices import DeviceQuery
from registry.contracts.api.over_time import Adoption
from registry.contracts.api.versions import (
    AliasMove,
    AliasView,
    ModelSettings,
    ModelView,
    ParityView,
    PublishAnswer,
    VariantAnswer,
    VariantOffer,
    VersionView,
    YankAnswer,
    YankBody,
)
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.evaluation import DatasetCreate, DatasetView, EvaluationCreate, EvaluationView
from registry.contracts.fit.choices import MAX_CHANGES, CoverageView, ResolutionView, ResolveBody
from registry.contracts.paths import API
from registry.contracts.wire import Digest, Name, VersionName
from registry.errors import InvalidError
from registry.server.device_pages import device_filter
from registry.server.middleware import etags
from registry.server.middleware.auth import Caller, CatalogReader, Publisher, Reader, ServicesDep
from registry.server.middleware.paging import NEWEST, PagingDep

models = APIRouter(prefix=API, tags=["models"])
versions = APIRouter(prefix=API, tags=["versions"])
aliases = APIRouter(prefix=API, tags=["aliases"])
choice = APIRouter(prefix=API, tags=["choice"])
evaluations = APIRouter(prefix=API, tags=["evaluations"])
Text = Annotated[str, Query(max_length=256)]


@models.get("/models")
def list_models(services: ServicesDep, paging: PagingDep, _who: CatalogReader) -> Page[ModelView]:
    """All models by name, each with its newest version."""
    return paging.answer("models", "", services.models.page, lambda model: model.name)


@models.get("/models/{model}", response_model=ModelView)
def get_model(model: Name, request: Request, services: ServicesDep, _who: CatalogReader) -> Response:
    """One model; 304 when the client's ETag is still true."""
    return etags.answer(request, services.models.get(model))


@models.patch("/models/{model}")
def change_model(model: Name, body: ModelSettings, services: ServicesDep, _who: Publisher) -> ModelView:
    """Change settings; absent fields stay."""
    return services.models.change(model, body)


@models.delete("/models/{model}", status_code=204)
def delete_model(model: Name, services: ServicesDep, who: Publisher) -> None:
    """Remove a model with all its versions, when no device uses one."""
    services.models.delete(model, who.name, services.clock())


@models.get("/models/{model}/adoption")
def get_adoption(
    model: Name, services: ServicesDep, _who: Reader, days: Annotated[int, Query(ge=1, le=90)] = 7
) -> Adoption:
    """On how many devices each of its versions served, by the hour."""
    return services.fleet.versions.adoption(model, days, services.clock())


@versions.get("/models/{model}/versions")
def list_versions(model: Name, services: ServicesDep, paging: PagingDep, _who: CatalogReader) -> Page[VersionView]:
    """All versions of a model, newest first."""
    return paging.newest(f"versions {model}", partial(services.versions.page, model))


@versions.get("/models/{model}/versions/{version}", response_model=VersionView)
def get_version(
    model: Name, version: VersionName, request: Request, services: ServicesDep, _who: CatalogReader
) -> Response:
    """A version, by its name or an alias; 304 when the client's ETag is still true."""
    return etags.answer(request, services.versions.get(model, version))


@versions.put(
    "/models/{model}/versions/{version}",
    status_code=201,
    responses={200: {"model": PublishAnswer, "description": "The same content was there already"}},
)
def publish_version(  # noqa: PLR0917 - called by the framework, by name
    model: Name, version: VersionName, body: Manifest, services: ServicesDep, response: Response, who: Publisher
) -> PublishAnswer:
    """Publish a version whose blobs are all there. It appears whole, and never changes."""
    if (body.model, body.version) != (model, version):
        raise InvalidError(f"The manifest is of {body.model} {body.version}, the path says {model} {version}.")
    _require_canonical(body)
    published = services.versions.publish(body, who.name, services.clock())
    if not published.created:
        response.status_code = 200
    return published


@versions.delete("/models/{model}/versions/{version}", status_code=204)
def delete_version(model: Name, version: VersionName, services: ServicesDep, _who: Publisher) -> None:
    """Remove a version that no alias points to and no device uses."""
    services.versions.delete(model, version, services.clock())


@versions.put("/models/{model}/versions/{version}/yank")
def yank_version(
    model: Name, version: VersionName, body: YankBody, services: ServicesDep, who: Publisher
) -> YankAnswer:
    """Let nothing new get it: no deployment, rollout or alias. What has it goes on."""
    return services.yanking.yank(model, version, body.reason.strip(), who.name, services.clock())


@versions.delete("/models/{model}/versions/{version}/yank")
def undo_yank(model: Name, version: VersionName, services: ServicesDep, who: Publisher) -> YankAnswer:
    """It may be deployed again, and counts as the newest again if it is, also after a rollout took it back."""
    return services.yanking.undo(model, version, who.name, services.clock())


@versions.put("/models/{model}/versions/{version}/variants/{variant}")
def add_variant(  # noqa: PLR0917 - called by the framework, by name
    model: Name, version: VersionName, variant: Name, body: VariantOffer, services: ServicesDep, who: Publisher
) -> VariantAnswer:
    """Add a converted variant to a version: a new manifest that extends the one there is, which never changes."""
    if body.variant.name != variant:
        raise InvalidError(f"The variant is {body.variant.name!r}, the path says {variant!r}.")
    return services.conversions.add(model, version, body.variant, who.name, services.clock())


@versions.get("/manifests/{digest}", response_model=Manifest)
def get_manifest(digest: Digest, request: Request, services: ServicesDep, _who: CatalogReader) -> Response:
    """The canonical bytes of a manifest: their SHA-256 is the digest."""
    return etags.document(request, services.versions.manifest_bytes(digest), digest, etags.IMMUTABLE)


def _require_canonical(manifest: Manifest) -> None:
    """NaN and infinity have no JSON: the bytes that are stored would say something else than what was sent."""
    try:
        same = Manifest.model_validate_json(manifest.canonical()) == manifest
    except ValueError:
        same = False
    if not same:
        raise InvalidError("The manifest has a value that JSON cannot say, such as NaN or an infinity.")


@aliases.get("/models/{model}/aliases")
def list_aliases(model: Name, services: ServicesDep, paging: PagingDep, _who: CatalogReader) -> Page[AliasView]:
    """All aliases of a model by name."""
    return paging.answer(f"aliases {model}", "", partial(services.aliases.page, model), lambda alias: alias.alias)


@aliases.get("/models/{model}/aliases/{alias}")
def get_alias(model: Name, alias: Name, services: ServicesDep, response: Response, _who: CatalogReader) -> AliasView:
    """Where it points. Its ETag is its revision, for `If-Match`."""
    return etags.tagged(services.aliases.get(model, alias), response)


@aliases.put("/models/{model}/aliases/{alias}")
def move_alias(  # noqa: PLR0917 - called by the framework, by name
    model: Name,
    alias: Name,
    body: AliasMove,
    request: Request,
    services: ServicesDep,
    response: Response,
    who: Publisher,
) -> AliasView:
    """Point it to a version: `If-Match: "<revision>"` to move it, `If-None-Match: *` to make it; 412 when too late."""
    seen = etags.expected_revision(request, required=True)
    moved = services.aliases.move(model, alias, body.version, seen=seen, by=who.name, now=services.clock())
    return etags.tagged(moved, response)


@aliases.delete("/models/{model}/aliases/{alias}", status_code=204)
def remove_alias(model: Name, alias: Name, request: Request, services: ServicesDep, who: Publisher) -> None:
    """End it; its history stays. With If-Match only if nobody moved it since."""
    seen = etags.expected_revision(request, required=False)
    services.aliases.remove(model, alias, seen=seen, by=who.name, now=services.clock())


@aliases.get("/models/{model}/aliases/{alias}/history")
def alias_history(
    model: Name, alias: Name, services: ServicesDep, paging: PagingDep, _who: CatalogReader
) -> Page[AliasView]:
    """Every move, newest first; a removal has no version."""
    moves = partial(services.aliases.history, model, alias)
    return paging.answer(f"history {model} {alias}", NEWEST, moves, lambda move: move.revision)


@choice.get("/devices/{device}/resolution")
def explain_device(  # noqa: PLR0917 - called by the framework, by name
    device: Name,
    services: ServicesDep,
    who: Caller,
    model: Name,
    version: Annotated[VersionName, Query(description="Or an alias")],
    variant: Annotated[Name | None, Query(description="Only this one may be chosen")] = None,
    what_if: Annotated[list[Text] | None, Query(max_length=MAX_CHANGES, description="`fact=value`")] = None,
) -> ResolutionView:
    """Which variant of the version the device would run, and why none of the others; the device itself may ask too."""
    who.require_device_or(Scope.READ, device)
    changes = dict(_change(text) for text in what_if or ())
    body = ResolveBody(model=model, version=version, device=device, variant=variant, what_if=changes)
    return services.fleet.coverage.resolution(body)


@choice.get("/models/{model}/versions/{version}/coverage")
def cover_fleet(
    model: Name,
    version: VersionName,
    services: ServicesDep,
    wanted: Annotated[DeviceQuery, Query()],
    _who: Reader,
) -> CoverageView:
    """What each class of devices would run of the version, and which can run nothing. The query says which devices, as
    for a list of them."""
    return services.fleet.coverage.coverage(model, version, device_filter(wanted), services.clock())


@choice.post("/resolve")
def resolve_facts(body: ResolveBody, services: ServicesDep, _who: Reader) -> ResolutionView:
    """Which variant a host with these facts would run. Nothing is kept."""
    return services.fleet.coverage.resolution(body)


def _change(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise InvalidError(f"`what_if` is `fact=value`, like cann=8.2; not {text[:100]!r}.")
    return name, value


@evaluations.get("/models/{model}/versions/{version}/parity")
def list_parity(model: Name, version: VersionName, services: ServicesDep, _who: Reader) -> Page[ParityView]:
    """How each variant answered the golden vectors: on the publisher's machine, and on the devices; all at once."""
    return Page[ParityView](items=tuple(services.parity.of(model, version)))


@evaluations.get("/models/{model}/versions/{version}/evaluations")
def list_evaluations(
    model: Name, version: VersionName, services: ServicesDep, paging: PagingDep, _who: Reader
) -> Page[EvaluationView]:
    """What the version scored, by variant and device; newest first."""
    found = partial(services.evaluations.page, model, version)
    return paging.answer(f"evaluations {model} {version}", NEWEST, found, lambda view: view.id)


@evaluations.post("/models/{model}/versions/{version}/evaluations", status_code=201)
def add_evaluation(
    model: Name, version: VersionName, body: EvaluationCreate, services: ServicesDep, who: Publisher
) -> EvaluationView:
    """Keep what a variant scored where no device was asked. Devices are asked with a job of kind `evaluate`."""
    return services.evaluations.add(model, version, body, who.name, services.clock())


@evaluations.get("/datasets")
def list_datasets(services: ServicesDep, paging: PagingDep, _who: CatalogReader) -> Page[DatasetView]:
    """All validation sets by name."""
    return paging.answer("datasets", "", services.datasets.page, lambda view: view.name)


@evaluations.get("/datasets/{name}")
def get_dataset(name: Name, services: ServicesDep, _who: CatalogReader) -> DatasetView:
    """One validation set."""
    return services.datasets.get(name)


@evaluations.put(
    "/datasets/{name}",
    status_code=201,
    responses={200: {"model": DatasetView, "description": "It was there already"}},
)
def publish_dataset(
    name: Name, body: DatasetCreate, services: ServicesDep, response: Response, who: Publisher
) -> DatasetView:
    """Publish a validation set whose blob is there. It never changes. Limits on models hold for its name, too."""
    who.require(Scope.PUBLISH, name)
    view, created = services.datasets.publish(name, body, who.name, services.clock())
    if not created:
        response.status_code = 200
    return view


@evaluations.delete("/datasets/{name}", status_code=204)
def delete_dataset(name: Name, services: ServicesDep, who: Publisher) -> None:
    """Remove a validation set; what was measured on it stays."""
    who.require(Scope.PUBLISH, name)
    services.datasets.delete(name, services.clock())
