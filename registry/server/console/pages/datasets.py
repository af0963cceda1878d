"""Validation sets: inputs with the right answers, on which versions are scored."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from registry.contracts.api.answers import Scope
from registry.contracts.wire import Name
from registry.server.console.filters import command_line, segment
from registry.server.console.forms import FormDep
from registry.server.console.rendering import done, page
from registry.server.console.visitors import Publishing, Reading
from registry.server.middleware.auth import ServicesDep
from registry.server.middleware.paging import PagingDep

router = APIRouter()


@router.get("/datasets")
def datasets(request: Request, services: ServicesDep, paging: PagingDep, _who: Reading) -> Response:
    """All of them."""
    found = paging.answer("datasets", "", services.datasets.page, lambda view: view.name)
    return page(request, "datasets.html", datasets=found.items, next=found.next, active="/models")


@router.get("/datasets/{name}")
def dataset(request: Request, name: Name, services: ServicesDep, _who: Reading) -> Response:
    """One: what it holds."""
    return page(request, "dataset.html", dataset=services.datasets.get(name), active="/models")


@router.post("/datasets/{name}/remove")
def remove_dataset(request: Request, name: Name, services: ServicesDep, who: Publishing, form: FormDep) -> Response:
    """Remove it; scores on it stay."""
    who.principal.require(Scope.PUBLISH, name)
    if form.ticked("confirmed"):
        services.datasets.delete(name, services.clock())
        return done(request, who, f"Validation set {name} is removed; what was measured on it stays.", "/datasets")
    view = services.datasets.get(name)
    return page(
        request,
        "confirm.html",
        title=f"Remove validation set {name}",
        back=f"/datasets/{segment(name)}",
        action=f"/datasets/{segment(name)}/remove",
        fields=(),
        facts=(
            ("Examples", f"{view.items:,}"),
            ("Effect", "It can be used no more. Scores that were measured on it stay."),
        ),
        warnings=(),
        command=command_line("registry", "dataset", "remove", name),
        button="Remove",
        danger=True,
        reason=None,
        active="/models",
    )
