"""Versions and their manifests."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from registry.contracts.api.answers import Page
from registry.contracts.api.versions import PublishAnswer, VariantAnswer, VariantOffer, VersionView
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.paths import API
from registry.contracts.wire import Digest, Name, VersionName
from registry.errors import InvalidError
from registry.server.middleware import etags
from registry.server.middleware.auth import CatalogReader, Publisher, ServicesDep
from registry.server.middleware.paging import NEWEST, PagingDep
from registry.server.routes.models import ModelName

Version = Annotated[VersionName, Path()]
router = APIRouter(prefix=API, tags=["versions"])


@router.get("/models/{model}/versions")
def list_versions(model: ModelName, services: ServicesDep, paging: PagingDep, _who: CatalogReader) -> Page[VersionView]:
    """All versions of a model, newest first."""
    listing = f"versions {model}"
    found = services.versions.page(model, paging.start(listing, NEWEST), paging.limit + 1)
    ids = {view.version: number for number, view in found}
    return paging.page(listing, [view for _, view in found], lambda view: ids[view.version])


@router.get("/models/{model}/versions/{version}", response_model=VersionView)
def get_version(
    model: ModelName, version: Version, request: Request, services: ServicesDep, _who: CatalogReader
) -> Response:
    """A version, by its name or an alias; 304 when the client's ETag is still true."""
    return etags.answer(request, services.versions.get(model, version))


@router.put(
    "/models/{model}/versions/{version}",
    status_code=201,
    responses={200: {"model": PublishAnswer, "description": "The same content was there already"}},
)
def publish_version(  # noqa: PLR0917 - called by the framework, by name
    model: ModelName, version: Version, body: Manifest, services: ServicesDep, response: Response, who: Publisher
) -> PublishAnswer:
    """Publish a version whose blobs are all there. It appears whole, and never changes."""
    if (body.model, body.version) != (model, version):
        raise InvalidError(f"The manifest is of {body.model} {body.version}, the path says {model} {version}.")
    _require_canonical(body)
    published = services.versions.publish(body, who.name, services.clock())
    if not published.created:
        response.status_code = 200
    return published


@router.delete("/models/{model}/versions/{version}", status_code=204)
def delete_version(model: ModelName, version: Version, services: ServicesDep, _who: Publisher) -> None:
    """Remove a version that no alias points to and no device uses."""
    services.versions.delete(model, version, services.clock())


@router.put("/models/{model}/versions/{version}/variants/{variant}")
def add_variant(  # noqa: PLR0917 - called by the framework, by name
    model: ModelName,
    version: Version,
    variant: Annotated[Name, Path()],
    body: VariantOffer,
    services: ServicesDep,
    who: Publisher,
) -> VariantAnswer:
    """Add a converted variant to a version: a new manifest that extends the one there is, which never changes."""
    if body.variant.name != variant:
        raise InvalidError(f"The variant is {body.variant.name!r}, the path says {variant!r}.")
    return services.conversions.add(model, version, body.variant, who.name, services.clock())


@router.get("/manifests/{digest}", response_model=Manifest)
def get_manifest(
    digest: Annotated[Digest, Path()], request: Request, services: ServicesDep, _who: CatalogReader
) -> Response:
    """The canonical bytes of a manifest: their SHA-256 is the digest."""
    body = services.versions.manifest_bytes(digest)
    headers = {"ETag": etags.quoted(digest), "Cache-Control": etags.IMMUTABLE}
    if etags.none_match(request, digest):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def _require_canonical(manifest: Manifest) -> None:
    """NaN and infinity have no JSON: the bytes that are stored would say something else than what was sent."""
    try:
        same = Manifest.model_validate_json(manifest.canonical()) == manifest
    except ValueError:
        same = False
    if not same:
        raise InvalidError("The manifest has a value that JSON cannot say, such as NaN or an infinity.")
