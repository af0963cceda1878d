"""The registry's HTTP API: what every part of it answers, and tokens with what each of them may do.

Errors are problem+json (RFC 9457), lists are a `Page`. Bodies are JSON but for blobs and uploads. Who may do what: see
`Scope`.
"""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import AwareDatetime, Field, model_validator

from registry.contracts.api.access import MAX_GRANTS, RoleGrant
from registry.contracts.enums import StrEnum
from registry.contracts.wire import Integer, Name, Wire


class Scope(StrEnum):
    """What an operation needs. Tokens have roles, which say more (`RoleGrant`); before there were roles they had one of
    these. `admin` may do everything; a `device` token acts only for its own device."""

    READ = "read"
    """Look at everything but secrets."""
    PUBLISH = "publish"
    """Upload blobs, publish versions, move aliases, change model settings, delete."""
    DEPLOY = "deploy"
    """Register devices and set what they should serve."""
    APPROVE = "approve"
    """Approve or deny what others want to change. Tokens that have `deploy` may, too."""
    ADMIN = "admin"
    """Also manage tokens."""
    DEVICE = "device"
    """An agent's: fetch what its device should serve, and report."""


class TokenCreate(Wire):
    """A new token; the name says who holds it. It has `grants`, or a `scope` as before there were roles."""

    name: Name
    """Unique."""
    scope: Literal[Scope.READ, Scope.PUBLISH, Scope.DEPLOY, Scope.ADMIN] | None = None
    """`read`: viewer, `publish`: publisher, `deploy`: deployer and approver, `admin`: administrator."""
    grants: Annotated[tuple[RoleGrant, ...], Field(max_length=MAX_GRANTS)] = ()
    """What it may do, and on what."""
    expires_at: AwareDatetime | None = None
    """It works until then. None: until it is revoked."""
    person: Name | None = None
    """Whose it is. None: a program's; such a token approves nothing where two people are asked for."""

    @model_validator(mode="after")
    def _says_what_it_may_do(self) -> TokenCreate:
        if (self.scope is None) == (not self.grants):
            raise ValueError("a token has grants or a scope")
        return self


class TokenCreated(Wire):
    """The secret is shown only here; the registry keeps its hash."""

    name: Name
    """Its name."""
    scope: Scope
    """The nearest scope."""
    token: str
    """The secret, for `Authorization: Bearer`."""
    grants: tuple[RoleGrant, ...] = ()
    """What it may do, and on what."""
    expires_at: AwareDatetime | None = None
    """It works until then. None: until it is revoked."""


class TokenView(Wire):
    """A token without its secret."""

    name: Name
    """Its name."""
    scope: Scope
    """The nearest scope."""
    created_at: AwareDatetime
    """UTC."""
    last_used: AwareDatetime | None = None
    """About when it was last seen. None: never."""
    grants: tuple[RoleGrant, ...] = ()
    """What it may do, and on what."""
    expires_at: AwareDatetime | None = None
    """It works until then. None: until it is revoked."""
    created_by: str = ""
    """Who made it. Empty: not recorded."""
    person: str = ""
    """Whose it is. Empty: a program's."""


class ConsoleLink(Wire):
    """A link that signs in at the console once. Whoever has it may what its token may."""

    path: str
    """The path below the registry's address, with the secret code."""
    token: Name
    """As whom it signs in."""
    expires_at: AwareDatetime
    """It works until then."""


class AboutView(Wire):
    """What this registry is."""

    version: str
    """Of its program."""
    instance: str = ""
    """Its name in its metrics."""
    now: AwareDatetime
    """Its clock, UTC."""
    started_at: AwareDatetime
    """When this process began to serve."""
    open_reading: bool = False
    """Its settings let everybody read without a token."""


MAX_PAGE = 500
PROBLEM_TYPE = "application/problem+json"
"""The content type of a Problem (RFC 9457)."""
STATUS_OF_CODE = {
    "not_found": 404,
    "conflict": 409,
    "in_use": 409,
    "yanked": 409,
    "key_offline": 409,
    "offset_mismatch": 409,
    "precondition_failed": 412,
    "invalid": 422,
    "digest_mismatch": 422,
    "too_large": 413,
    "insufficient_storage": 507,
    "unauthorized": 401,
    "forbidden": 403,
    "needs_approval": 409,
    "over_share": 429,
    "busy": 503,
    "read_only": 503,
    "storage_failed": 503,
    "blob_damaged": 503,
    "timeout": 408,
    "range_not_satisfiable": 416,
    "method_not_allowed": 405,
    "internal": 500,
}
"""The registry's codes with the HTTP status of each."""
PROBLEM_CODES = frozenset(STATUS_OF_CODE)
Item = TypeVar("Item")


class Problem(Wire):
    """RFC 9457 with a stable code."""

    type: str = "about:blank"
    """Always `about:blank`: `code` says which problem it is."""
    title: str
    """The status in words."""
    status: Integer
    """The HTTP status."""
    detail: str = ""
    """What happened, why, and what to do, for a person."""
    code: str
    """Stable: one of STATUS_OF_CODE. By it a client knows that the registry answers, and nobody in between."""
    errors: tuple[str, ...] = ()
    """The single faults of an invalid body, or the differences of a conflict."""


class Page(Wire, Generic[Item]):
    """Part of a list; `next` goes into `?cursor=` for the rest, None at the end. `?limit=` is at most MAX_PAGE."""

    items: tuple[Item, ...]
    """In the order of the list."""
    next: str | None = None
    """The cursor of the rest. None: this is the end."""
