"""Who asks, and who acts.

A principal is made of a credential. The one on whose behalf this task or thread works is `acting()`; None: the registry
itself, for example a rollout's next step. The server sets it where it finds out who asks; threads that serve the
request have it, too.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from registry.contracts.api.access import RoleGrant
from registry.contracts.api.answers import Scope
from registry.core.access import ROLE_OF, allowing, covers_model, named, of_scope
from registry.errors import ForbiddenError


@dataclass(frozen=True)
class Principal:
    """Who asks. `name` goes into the record of what was done; `device` is set for a device's credential."""

    name: str
    scope: Scope
    """The nearest of the scopes; `rights` say exactly what it may."""
    device: str | None = None
    grants: tuple[RoleGrant, ...] = ()
    """Empty: those of the scope."""
    expires_at: datetime | None = None
    """The credential works until then; None: until it is revoked."""
    person: str = ""
    """Whose it is. Empty: a program's, or a device's."""
    made_by_person: str = ""
    """The person behind whoever made it."""

    @property
    def behind(self) -> str:
        """The person who answers for what is done with it. Empty: none is known. An administrator's token of nobody
        counts as a person of its own: it could make itself one."""
        return self.person or self.made_by_person or (self.name if self.may(Scope.ADMIN) else "")

    @property
    def rights(self) -> tuple[RoleGrant, ...]:
        """What it may do, and on what."""
        return self.grants or of_scope(self.scope)

    @property
    def roles(self) -> str:
        """Its rights for people."""
        return f"device {self.device}" if self.device is not None else named(self.rights)

    def allowing(self, scope: Scope, model: str | None = None) -> tuple[RoleGrant, ...]:
        """The grants that have this permission on this model; None: on what touches no model in particular."""
        return tuple(each for each in allowing(self.rights, scope) if covers_model(each, model))

    def may(self, scope: Scope) -> bool:
        """Is the permission granted, on some models and devices?"""
        return scope is self.scope is Scope.DEVICE or bool(allowing(self.rights, scope))

    def require(self, scope: Scope, model: str | None = None) -> None:
        """Raises ForbiddenError when the permission is not granted, or not on this model where one is named."""
        if not self.may(scope):
            raise ForbiddenError(f"This needs the role {ROLE_OF[scope]}; {self.name!r} is {self.roles}.")
        if model is not None and not self.allowing(scope, model):
            raise ForbiddenError(f"This needs the role {ROLE_OF[scope]} of {model}; {self.name!r} is {self.roles}.")

    def require_everywhere(self, scope: Scope) -> None:
        """Raises ForbiddenError when the permission is not granted on all models and devices."""
        self.require(scope)
        if not any(not each.models and not each.devices.strip() for each in allowing(self.rights, scope)):
            raise ForbiddenError(
                f"This needs the role {ROLE_OF[scope]} on the whole fleet; {self.name!r} is {self.roles}."
            )

    def require_device(self, device: str) -> None:
        """Raises ForbiddenError for everybody but the device itself and administrators."""
        if self.device != device and not self.may(Scope.ADMIN):
            raise ForbiddenError(f"Only device {device!r} itself, with its own credential, may do this.")

    def require_device_or(self, scope: Scope, device: str) -> None:
        """Raises ForbiddenError for everybody but the device itself and those to whom the scope is granted."""
        if self.device != device:
            self.require(scope)


ANONYMOUS = Principal(name="", scope=Scope.READ)
"""A reader without a token, where `access.open_reading` allows that."""


@dataclass(frozen=True)
class Actor:
    """A principal, and from where it asks."""

    principal: Principal
    address: str = ""


_acting: ContextVar[Actor | None] = ContextVar("acting", default=None)


def person_behind(by: str) -> str:
    """Who answers for what is done now by `by`: the person behind the token; where nobody acts, `by` itself."""
    actor = acting()
    return by if actor is None else actor.principal.behind


def act_as(actor: Actor | None) -> None:
    """What this task or thread does from now on, it does for this one."""
    _acting.set(actor)


def acting() -> Actor | None:
    """For whom this task or thread works; None: the registry itself."""
    return _acting.get()
