"""ETags and what clients say with them (RFC 9110, 13)."""

from __future__ import annotations

import hashlib
import re
from typing import TypeVar

from fastapi import Request
from fastapi.responses import Response

from registry.contracts.api.versions import AliasView
from registry.contracts.rollout.views import RolloutView
from registry.contracts.wire import Wire
from registry.errors import InvalidError, PreconditionError

IMMUTABLE = "private, max-age=31536000, immutable"
"""Cache-Control of what is named by its digest. Private: a shared cache would answer without asking for a token."""
Revised = TypeVar("Revised", AliasView, RolloutView)
_TAG = re.compile(r'(?:W/)?"([^"]*)"')


def quoted(tag: str) -> str:
    """A strong ETag."""
    return f'"{tag}"'


def none_match(request: Request, tag: str) -> bool:
    """Does If-None-Match name this tag, so that 304 is the answer? Weak comparison."""
    header = request.headers.get("if-none-match")
    return header is not None and (header.strip() == "*" or tag in _TAG.findall(header))


def document(request: Request, body: bytes, tag: str, cache: str = "no-cache") -> Response:
    """JSON under a strong ETag; 304 when the client has it."""
    headers = {"ETag": quoted(tag), "Cache-Control": cache}
    if none_match(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def answer(request: Request, value: Wire) -> Response:
    """The value as JSON with an ETag of its content; 304 when the client has it."""
    body = value.model_dump_json().encode()
    return document(request, body, hashlib.sha256(body).hexdigest()[:32])


def tagged(view: Revised, response: Response) -> Revised:
    """The view, answered with its revision as ETag."""
    response.headers["ETag"] = quoted(str(view.revision))
    response.headers["Cache-Control"] = "no-cache"
    return view


def expected_revision(request: Request, *, required: bool) -> int | None:
    """The revision in `If-Match: "<n>"`; None for `If-None-Match: *`, and for no header unless one is required.

    Raises:
        InvalidError: neither header, or both, or not a revision.
        PreconditionError: If-Match names something that is no revision, so it cannot match.
    """
    match, none = request.headers.get("if-match"), request.headers.get("if-none-match")
    if match is not None and none is not None:
        raise InvalidError("Send If-Match or If-None-Match, not both.")
    if match is not None:
        tag = re.fullmatch(r'"([0-9]{1,15})"', match.strip())
        if tag is None:
            raise PreconditionError('If-Match names no revision; it looks like `If-Match: "3"`.')
        return int(tag[1])
    if none is not None and none.strip() != "*":
        raise InvalidError("If-None-Match is only understood as `*`: it must not exist yet.")
    if none is None and required:
        raise InvalidError('Send `If-Match: "<revision>"` to move it, or `If-None-Match: *` to make it.')
    return None
