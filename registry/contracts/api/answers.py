"""The registry's HTTP API: what every part of it answers. Errors are problem+json (RFC 9457), lists are a `Page`.

Bodies are JSON but for blobs and uploads. Who may do what: see `Scope`.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from registry.contracts.wire import Wire

MAX_PAGE = 500
PROBLEM_TYPE = "application/problem+json"
"""The content type of a Problem (RFC 9457)."""
STATUS_OF_CODE = {
    "not_found": 404,
    "conflict": 409,
    "in_use": 409,
    "offset_mismatch": 409,
    "precondition_failed": 412,
    "invalid": 422,
    "digest_mismatch": 422,
    "too_large": 413,
    "insufficient_storage": 507,
    "unauthorized": 401,
    "forbidden": 403,
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
    status: int
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
