"""The registry's HTTP API: tokens, and what each kind of them may do."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime

from registry.contracts.enums import StrEnum
from registry.contracts.names import Name
from registry.contracts.wire import Wire


class Scope(StrEnum):
    """What a token may do. `admin` may do everything; a `device` token acts only for its own device."""

    READ = "read"
    """Look at everything but secrets."""
    PUBLISH = "publish"
    """Upload blobs, publish versions, move aliases, change model settings, delete."""
    DEPLOY = "deploy"
    """Register devices and set what they should serve."""
    ADMIN = "admin"
    """Also manage tokens."""
    DEVICE = "device"
    """An agent's: fetch what its device should serve, and report."""


class TokenCreate(Wire):
    """A new token; the name says who holds it."""

    name: Name
    """Unique."""
    scope: Literal[Scope.READ, Scope.PUBLISH, Scope.DEPLOY, Scope.ADMIN]
    """What it may do."""


class TokenCreated(Wire):
    """The secret is shown only here; the registry keeps its hash."""

    name: Name
    """Its name."""
    scope: Scope
    """What it may do."""
    token: str
    """The secret, for `Authorization: Bearer`."""


class TokenView(Wire):
    """A token without its secret."""

    name: Name
    """Its name."""
    scope: Scope
    """What it may do."""
    created_at: AwareDatetime
    """UTC."""
    last_used: AwareDatetime | None = None
    """About when it was last seen. None: never."""
