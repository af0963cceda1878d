"""A span for every HTTP request, below the client's where it names one. Only where traces are on."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry import tracing

PASSED_OVER = frozenset({"/healthz", "/readyz", "/metrics"})


class Traced:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on within a span."""
        if scope["type"] != "http" or scope["path"] in PASSED_OVER or not tracing.is_on():
            await self._app(scope, receive, send)
            return
        status = 499  # the client left before an answer began

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = Headers(scope=scope)
        with tracing.span(scope["method"], "SERVER", headers) as current:
            try:
                await self._app(scope, receive, watch)
            finally:
                route = getattr(scope.get("route"), "path", "")
                current.update_name(f"{scope['method']} {route}".strip())
                current.set_attributes(
                    {
                        "http.request.method": scope["method"],
                        "http.route": route,
                        "url.path": scope["path"],
                        "http.response.status_code": status,
                        "modelfleet.request_id": headers.get("x-request-id", ""),
                    }
                )
                if status >= 500:
                    tracing.has_failed(current, f"answered {status}")
