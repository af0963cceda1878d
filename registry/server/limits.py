"""ASGI middleware: bounds on the body of every request but an upload's, whose route bounds it itself.

The body is read whole, with a deadline between its pieces, before a route starts: a slow client holds no thread.
Its size and the nesting of its brackets are checked before anything parses it.
"""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.config import Limits
from registry.contracts.api import API
from registry.contracts.manifest import MAX_MANIFEST_BYTES
from registry.core.nesting import nests_deeper
from registry.server.problems import problem_response

_UPLOADS = f"{API}/uploads/"
CLOSE = {"Connection": "close"}
"""With a refusal that leaves a body unread."""


class BodyLimits:
    """See the module."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the body, then pass on."""
        if scope["type"] != "http" or (scope["method"] == "PATCH" and scope["path"].startswith(_UPLOADS)):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" not in headers and length == b"0":
            await self._app(scope, receive, send)
            return
        is_manifest = scope["method"] == "PUT" and "/versions/" in scope["path"]
        most = MAX_MANIFEST_BYTES if is_manifest else self._limits.json_bytes
        if length.isdigit() and int(length) > most:
            await problem_response("too_large", f"The body may have {most} bytes.", headers=CLOSE)(scope, receive, send)
            return
        try:
            body = await self._read(receive, most)
        except TimeoutError:
            await problem_response("timeout", "The body came too slowly.", headers=CLOSE)(scope, receive, send)
            return
        if body is None:
            return
        if len(body) > most:
            await problem_response("too_large", f"The body may have {most} bytes.", headers=CLOSE)(scope, receive, send)
        elif nests_deeper(body, self._limits.json_depth):
            detail = f"The JSON nests deeper than {self._limits.json_depth} levels."
            await problem_response("invalid", detail)(scope, receive, send)
        else:
            await self._app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive, most: int) -> bytes | None:
        """The body, or a little more than is allowed of it; None when the client is gone."""
        body = bytearray()
        more = True
        while more and len(body) <= most:
            with anyio.fail_after(self._limits.body_timeout_s):
                message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hands out the body that was read, then what else comes."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
