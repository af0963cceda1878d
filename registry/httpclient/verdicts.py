"""Whose answer it is. Pure.

Between a client and the registry stand proxies, portals and gateways that answer by themselves: a page with 404 for a
few seconds, a redirect to a login, 200 with HTML. Only a problem document (RFC 9457) with one of the registry's own
codes is the registry's refusal. Everything else says nothing about what was asked for: it is a network fault, and
passes.
"""

from __future__ import annotations

from pydantic import ValidationError

from registry.contracts.api.answers import PROBLEM_CODES, PROBLEM_TYPE, Problem

JSON = "application/json"
BYTES = "application/octet-stream"
MAX_PROBLEM_BYTES = 16 << 10
_SHOWN = 160


def media_type(content_type: str | None) -> str:
    """The type itself, in small letters, without parameters; empty: there is none."""
    return (content_type or "").partition(";")[0].strip().lower()


def problem_of(status: int, content_type: str | None, body: bytes) -> Problem | None:
    """The registry's refusal; None: the answer is somebody else's, or was spoilt on the way."""
    if media_type(content_type) != PROBLEM_TYPE or len(body) > MAX_PROBLEM_BYTES:
        return None
    try:
        problem = Problem.model_validate_json(body)
    except ValidationError:
        return None
    return problem if problem.status == status and problem.code in PROBLEM_CODES else None


def foreign_text(status: int, content_type: str | None, body: bytes, location: str = "") -> str:
    """One sentence on an answer that is not the registry's, with the beginning of its body; printable."""
    kind = media_type(content_type) or "no content type"
    start = " ".join(body[:_SHOWN].decode("utf-8", "replace").split())
    shown = "".join(c if c.isprintable() else "?" for c in start)
    where = "".join(c if c.isprintable() else "?" for c in location[:_SHOWN])
    to = f", a redirect to {where} that is not followed" if where else ""
    return f"HTTP {status} ({kind}{to}) is no answer of the registry: a proxy, portal or other server is in between" + (
        f"; it begins: {shown}" if shown else ""
    )
