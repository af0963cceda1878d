"""What this process counts as it happens: its requests, and what others count with `counter`."""

from __future__ import annotations

import time

from prometheus_client import Counter, Histogram, disable_created_metrics
from prometheus_client.metrics_core import Metric as Family
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.contracts.counters import PREFIX, LabelledValues
from registry.metric_text import family
from registry.server.metric_table import REGISTRY_METRICS

disable_created_metrics()  # type: ignore[no-untyped-call]
"""Of this process: a series `_created` beside each counter tells nobody anything."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def counter(name: str) -> Counter:
    """A counter of the table that this process raises itself. Raises KeyError for a name that the table has not."""
    metric = REGISTRY_METRICS[name]
    return Counter(PREFIX + name, metric.meaning, metric.labels)


def figure(name: str, value: float | LabelledValues) -> Family:
    """A figure of the table, as it is now; with labels, by their values. Raises KeyError as `counter` does."""
    return family(
        REGISTRY_METRICS[name], sorted(value.items()) if not isinstance(value, int | float) else [((), value)]
    )


REQUESTS = counter("http_requests")
_seconds = REGISTRY_METRICS["http_request_seconds"]
SECONDS = Histogram(PREFIX + _seconds.name, _seconds.meaning, _seconds.labels)
BYTES_SENT = counter("blob_bytes_sent")
BYTES_RECEIVED = counter("blob_bytes_received")


class CountRequests:
    """ASGI middleware: counts and times every request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, then count."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 499  # the client left before an answer began

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        try:
            await self._app(scope, receive, watch)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", "none")
            REQUESTS.labels(method, route, str(status)).inc()
            SECONDS.labels(method, route).observe(time.perf_counter() - started)
