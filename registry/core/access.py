"""What roles may do, and what their limits cover. Pure.

A role allows reading and one thing more. A grant covers a model if it has no patterns or one of them fits; what touches
no model in particular, as the labels of a device, needs a grant without patterns. Limits on devices are selectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from registry.contracts.api.access import Role, RoleGrant
from registry.contracts.api.answers import Scope

ROLE_OF: dict[Scope, Role] = {
    Scope.READ: Role.VIEWER,
    Scope.PUBLISH: Role.PUBLISHER,
    Scope.DEPLOY: Role.DEPLOYER,
    Scope.APPROVE: Role.APPROVER,
    Scope.ADMIN: Role.ADMINISTRATOR,
}
"""The role that has a permission; the administrator has each."""
_ALLOWED = {role: frozenset({Scope.READ, scope}) for scope, role in ROLE_OF.items()}
_ALLOWED[Role.ADMINISTRATOR] = frozenset(ROLE_OF)
_EARLIER: dict[Scope, tuple[Role, ...]] = {
    Scope.READ: (Role.VIEWER,),
    Scope.PUBLISH: (Role.PUBLISHER,),
    Scope.DEPLOY: (Role.DEPLOYER, Role.APPROVER),
    Scope.ADMIN: (Role.ADMINISTRATOR,),
}
_NEAREST = (Scope.ADMIN, Scope.DEPLOY, Scope.PUBLISH)


def of_scope(scope: Scope) -> tuple[RoleGrant, ...]:
    """What a token of this scope may do, as grants: those that `deploy` also approve. None for a device."""
    return tuple(RoleGrant(role=role) for role in _EARLIER.get(scope, ()))


def nearest_scope(grants: Sequence[RoleGrant]) -> Scope:
    """The scope that says most of these grants, for programs that know no roles."""
    return next((scope for scope in _NEAREST if any(each.role is ROLE_OF[scope] for each in grants)), Scope.READ)


def allowing(grants: Iterable[RoleGrant], scope: Scope) -> tuple[RoleGrant, ...]:
    """Those that have the permission, on whatever."""
    return tuple(each for each in grants if scope in _ALLOWED[each.role])


def covers_model(grant: RoleGrant, model: str | None) -> bool:
    """Does it extend to this model? None: to what touches no model in particular."""
    if not grant.models:
        return True
    return model is not None and any(_fits(pattern, model) for pattern in grant.models)


def _fits(pattern: str, model: str) -> bool:
    return model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern


def named(grants: Iterable[RoleGrant]) -> str:
    """`deployer of vision-* on site=paris, approver`; of none: `nothing`."""
    return ", ".join(map(str, grants)) or "nothing"
