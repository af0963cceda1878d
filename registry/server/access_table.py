"""What each operation of the API needs, as text; docs/console-operations.md shows it.

Where a route asks for a role by a dependency (`registry.server.middleware.auth`), that is read from the route. What
else a route decides by itself stands in OWN_RULES. A test holds that every operation has exactly one of both.
"""

from __future__ import annotations

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from registry.contracts.api.access import LIMITED_BY_DEVICES, LIMITED_BY_MODELS
from registry.contracts.api.answers import Scope
from registry.core.access import ROLE_OF
from registry.server.middleware.auth import Needs

_DEVICE = "the device itself"
_OR_DEVICE = "viewer, or the device itself"
_ANY = "viewer, or any device"
_UPLOADER = "publisher, or a device for what a job of its offers; later whoever began it"
OWN_RULES: dict[str, str] = {
    "GET /v1/devices/{device}": _OR_DEVICE,
    "GET /v1/devices/{device}/desired": _OR_DEVICE,
    "GET /v1/devices/{device}/deployments": _OR_DEVICE,
    "GET /v1/devices/{device}/resolution": _OR_DEVICE,
    "GET /v1/jobs/{job}": _OR_DEVICE,
    "PUT /v1/devices/{device}/facts": _DEVICE,
    "POST /v1/devices/{device}/reports": _DEVICE,
    "PUT /v1/jobs/{job}/variant": _DEVICE,
    "GET /v1/uploads": "publisher or device, one's own; an administrator, all",
    "POST /v1/uploads": _UPLOADER,
    "GET /v1/uploads/{upload}": _UPLOADER,
    "PATCH /v1/uploads/{upload}": _UPLOADER,
    "DELETE /v1/uploads/{upload}": "whoever began it, or an administrator",
}
"""Operations whose route finds out by itself who may. Administrators may do what a device may."""


def needs_of(route: APIRoute) -> Needs | None:
    """What the route's dependencies need; None: the route decides by itself."""
    return _needs_in(route.dependant)


def _needs_in(dependant: Dependant) -> Needs | None:
    found = getattr(dependant.call, "needs", None)
    if isinstance(found, Needs):
        return found
    return next((needs for each in dependant.dependencies if (needs := _needs_in(each)) is not None), None)


def needs_text(needs: Needs) -> str:
    """The role, and what can limit it here."""
    role = ROLE_OF[needs.scope]
    if needs.devices:
        return f"{role}, or any device"
    if needs.everywhere and role in LIMITED_BY_DEVICES:
        return f"{role} of the whole fleet"
    return role.value


def limits_text(needs: Needs) -> str:
    """What limits the role on this operation: its models, its devices, both, or nothing."""
    role = ROLE_OF[needs.scope]
    if needs.everywhere or needs.scope is Scope.READ:
        return ""
    limits = ["models"] if role in LIMITED_BY_MODELS else []
    return ", ".join([*limits, *(["devices"] if role in LIMITED_BY_DEVICES else [])])
