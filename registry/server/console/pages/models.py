"""Models and versions: who serves what, how good it is, where it comes from, and what people do with it."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.rollout.spec import MAX_SELECTOR_CHARS
from registry.contracts.wire import Digest, Name, VersionName
from registry.core.differences import changes
from registry.server.console import model_figures
from registry.server.console.pages import model_actions
from registry.server.console.rendering import page
from registry.server.console.sections import NavEntry
from registry.server.console.visitors import Reading
from registry.server.middleware.auth import ServicesDep
from registry.server.middleware.paging import NEWEST, PagingDep
from registry.services.fleet.listing import DeviceFilter

router = APIRouter()
SECTION = NavEntry("Models", "/models", "models", router, groups=(model_actions.router,))
VERSIONS = 50
"""Of a model's page: each is a row, and a point of the plot of scores."""
PARITIES = 200
"""Devices whose comparison with the golden vectors a version's page shows."""
SCORES = 20


@router.get("/models")
def models(request: Request, services: ServicesDep, paging: PagingDep, _who: Reading) -> Response:
    """By name."""
    found = paging.answer("models", "", services.models.page, lambda model: model.name)
    summary = services.fleet.figures.summary(services.clock())
    return page(
        request, "models.html", live=True, models=found.items, next=found.next,
        served=model_figures.served_by_model(summary),
    )  # fmt: skip


@router.get("/models/{model}")
def model(
    request: Request,
    model: Name,
    services: ServicesDep,
    paging: PagingDep,
    _who: Reading,
    days: Annotated[int, Query(ge=1, le=90)] = 7,
) -> Response:
    """Its versions, aliases and settings; who serves which version; scores over versions."""
    view = services.models.get(model)
    paging = type(paging)(min(paging.limit, VERSIONS), paging.cursor)
    found = paging.newest(f"versions {model}", partial(services.versions.page, model))
    scores = services.evaluations.scores(model, [each.version for each in found.items])
    summary = services.fleet.figures.summary(services.clock())
    served = model_figures.served(summary, model)
    adoption = services.fleet.versions.adoption(model, days, services.clock())
    return page(
        request, "model.html", live=True, model=view, versions=found.items, next=found.next, served=served,
        hardware=model_figures.hardware_of(served), left_out=summary.versions_left_out, scores=scores,
        days=days, adoption=adoption, adoption_plot=model_figures.adoption_plot(adoption),
        score_plot=model_figures.score_plot(found.items, scores),
        aliases=services.aliases.page(model, "", 200),
    )  # fmt: skip


@router.get("/models/{model}/aliases/{alias}")
def alias(
    request: Request, model: Name, alias: Name, services: ServicesDep, paging: PagingDep, _who: Reading
) -> Response:
    """Where it points, and each move."""
    moves = partial(services.aliases.history, model, alias)
    found = paging.answer(f"history {model} {alias}", NEWEST, moves, lambda move: move.revision)
    living = [each for each in services.aliases.page(model, "", 500) if each.alias == alias]
    return page(
        request, "alias.html", model=model, alias=alias, now_at=living[0] if living else None, moves=found.items,
        next=found.next,
    )  # fmt: skip


@router.get("/models/{model}/versions/{version}")
def version(request: Request, model: Name, version: VersionName, services: ServicesDep, _who: Reading) -> Response:
    """Everything about one version."""
    view = services.versions.get(model, version)
    manifest = Manifest.model_validate_json(services.versions.manifest_bytes(view.manifest))
    parity = services.parity.of(model, view.version, serving=PARITIES)
    served = model_figures.served(services.fleet.figures.summary(services.clock()), model)
    return page(
        request, "version.html", live=True, version=view, manifest=manifest, parity=parity,
        parity_plot=model_figures.parity_plot(parity, manifest.golden), figures=model_figures,
        parents=model_figures.parents(manifest), served=served.get(view.version, model_figures.Served()),
        scores=services.evaluations.page(model, view.version, NEWEST, SCORES),
        earlier=[each for _, each in services.versions.page(model, NEWEST, VERSIONS) if each.version != view.version],
    )  # fmt: skip


@router.get("/models/{model}/versions/{version}/coverage")
def coverage(
    request: Request,
    model: Name,
    version: VersionName,
    services: ServicesDep,
    _who: Reading,
    selector: Annotated[str, Query(max_length=MAX_SELECTOR_CHARS)] = "",
) -> Response:
    """What each class of devices would run of it, and which can run nothing."""
    found = services.fleet.coverage.coverage(model, version, DeviceFilter(selector=selector.strip()), services.clock())
    return page(request, "coverage.html", found=found, selector=selector, active="/models")


@router.get("/models/{model}/versions/{version}/evaluations")
def evaluations(
    request: Request, model: Name, version: VersionName, services: ServicesDep, paging: PagingDep, _who: Reading
) -> Response:
    """What it scored, newest first."""
    listed = partial(services.evaluations.page, model, version)
    found = paging.answer(f"evaluations {model} {version}", NEWEST, listed, lambda view: view.id)
    return page(request, "evaluations.html", model=model, version=version, scores=found.items, next=found.next)


@router.get("/models/{model}/versions/{version}/difference")
def difference(
    request: Request,
    model: Name,
    version: VersionName,
    services: ServicesDep,
    _who: Reading,
    other: Annotated[VersionName, Query(alias="from")],
) -> Response:
    """What its manifest says otherwise than another version's."""
    views = [services.versions.get(model, each) for each in (other, version)]
    said = [json.loads(services.versions.manifest_bytes(each.manifest)) for each in views]
    return page(
        request, "difference.html", model=model, old=views[0], new=views[1], changes=changes(*said),
        active="/models",
    )  # fmt: skip


@router.get("/manifests/{digest}")
def manifest(request: Request, digest: Digest, services: ServicesDep, _who: Reading) -> Response:
    """As it was published."""
    said = json.loads(services.versions.manifest_bytes(digest))
    text = json.dumps(said, indent=2, ensure_ascii=False)
    return page(request, "manifest.html", digest=digest, said=said, text=text, active="/models")
