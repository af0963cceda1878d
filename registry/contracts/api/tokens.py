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
    PUBLISH = "publish"
    """Upload blobs, publish versions, move aliases, change model settings, delete."""
    DEPLOY = "deploy"
    """Register devices and set what they should serve."""
    ADMIN = "admin"
    """Also manage tokens."""
    DEVICE = "device"


class TokenCreate(Wire):
    """A new token; the name says who holds it."""

    name: Name
    scope: Literal[Scope.READ, Scope.PUBLISH, Scope.DEPLOY, Scope.ADMIN]


class TokenCreated(Wire):
    """The secret is shown only here; the registry keeps its hash."""

    name: Name
    scope: Scope
    token: str


class TokenView(Wire):
    """A token without its secret."""

    name: Name
    scope: Scope
    created_at: AwareDatetime
    last_used: AwareDatetime | None = None
