"""The registry's HTTP API: what every part of it answers. Errors are problem+json (RFC 9457), lists are a `Page`.

Bodies are JSON but for blobs and uploads. Who may do what: see `Scope`.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from registry.contracts.wire import Wire

MAX_PAGE = 500
Item = TypeVar("Item")


class Problem(Wire):
    """RFC 9457 with a stable code."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
    code: str
    """Stable: not_found, conflict, precondition_failed, invalid, unauthorized, forbidden, too_large, digest_mismatch,
    offset_mismatch, insufficient_storage, read_only, storage_failed, in_use, busy, timeout, method_not_allowed,
    range_not_satisfiable, internal."""
    errors: tuple[str, ...] = ()
    """The single faults of an invalid body, or the differences of a conflict."""


class Page(Wire, Generic[Item]):
    """Part of a list; `next` goes into `?cursor=` for the rest, None at the end. `?limit=` is at most MAX_PAGE."""

    items: tuple[Item, ...]
    next: str | None = None
