"""Signed metadata: the files of both repositories, for devices and publishers, and who signs what, for people."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response

from registry.contracts.api.answers import Scope
from registry.contracts.api.trust import SignedFiles, TrustChange, TrustChanged, TrustView
from registry.contracts.paths import API
from registry.contracts.wire import digest_of
from registry.server.middleware import etags
from registry.server.middleware.auth import Administrator, CatalogReader, Publisher, Reader, ServicesDep
from registry.services.trust.view import trust_view
from registry.trust.names import model_of

trust = APIRouter(prefix=API, tags=["trust"])


@trust.get("/trust")
def get_trust(services: ServicesDep, _who: Reader) -> TrustView:
    """Roles, keys and when they expire."""
    with services.database.read() as session:
        return trust_view(services.trust, session, services.clock())


@trust.post("/trust/changes")
def change_trust(body: TrustChange, services: ServicesDep, who: Administrator) -> TrustChanged:
    """Replace or revoke keys, delegate a model, renew. Where keys are elsewhere: what they have to sign."""
    return services.trust_changes.make(body, who.name, services.clock())


@trust.post("/trust/files")
def put_trust_files(body: SignedFiles, services: ServicesDep, who: Publisher) -> TrustChanged:
    """Take metadata that were signed elsewhere, all or none. A publisher brings those of models."""
    if any(model_of(file.role) is None for file in body.files):
        who.require(Scope.ADMIN)
    return services.trust_changes.take(body.files, who.name, services.clock())


@trust.get("/trust/{repository}/{name}", response_model=dict[str, object])
def get_trust_file(
    repository: Literal["image", "director"], name: str, request: Request, services: ServicesDep, _who: CatalogReader
) -> Response:
    """Metadata as they were signed (TUF 1.0): `NUMBER.ROLE.json`, which never changes, or the newest, as
    `timestamp.json`."""
    found = services.trust.file(repository, name)
    cache = etags.IMMUTABLE if name[:1].isdigit() else "no-cache"
    return etags.document(request, found.body, digest_of(found.body), cache)
