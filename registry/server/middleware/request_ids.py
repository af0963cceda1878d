"""Every request has an id, the client's (`X-Request-Id`) or a new one: the answer and each log line name it."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.log_format import ids

REQUEST_ID = "x-request-id"
_TAKEN = re.compile(r"[0-9A-Za-z._-]{1,64}")
"""What a client may choose; anything else is replaced by an id of ours."""


class RequestIds:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on within `ids`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _TAKEN.fullmatch(given) else secrets.token_hex(8)

        async def name(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        with ids(request=request_id):
            await self._app(scope, receive, name)
