"""What the registry counts and measures for `/metrics`. Labels are routes, states and reasons, never names that clients
choose.
"""

from __future__ import annotations

import time

from prometheus_client import Counter, Histogram, disable_created_metrics
from prometheus_client.metrics_core import Metric as Family
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.contracts.counters import PREFIX, LabelledValues, Metric, table
from registry.metric_text import family

REGISTRY_METRICS = table(
    Metric("http_requests", "counter", "requests", "Requests answered.", ("method", "route", "status")),
    Metric(
        "http_request_seconds", "histogram", "seconds", "From request to the answer's last byte.", ("method", "route")
    ),
    Metric("blob_bytes_sent", "counter", "bytes", "Bytes of blobs sent."),
    Metric("blob_bytes_received", "counter", "bytes", "Bytes of blobs received."),
    Metric(
        "blobs_damaged",
        "gauge",
        "blobs",
        "Blobs that a version or a validation set needs and whose copy is lost or wrong.",
    ),
    Metric("blobs_found_damaged", "counter", "blobs", "Blobs whose copy was found lost or wrong."),
    Metric("blob_bytes_verified", "counter", "bytes", "Bytes of blobs that were read in the background."),
    Metric("database_conflicts", "counter", "writes", "Writes that another transaction conflicted with; done again."),
    Metric("database_refusals", "counter", "operations", "Reads and writes that the database could not do.", ("code",)),
    Metric("jobs_failed", "counter", "runs", "Runs of a periodic job that failed; the next one tries again.", ("job",)),
    Metric("rollouts", "gauge", "rollouts", "Rollouts by state.", ("state",)),
    Metric("rollout_devices", "gauge", "devices", "Devices in rollouts that are under way, by state.", ("state",)),
    Metric("devices", "gauge", "devices", "Devices by presence.", ("presence",)),
    Metric("devices_with_two_agents", "gauge", "devices", "Devices whose name two agents run under at the same time."),
    Metric("registry_mqtt_connected", "gauge", "1 or 0", "1 when connected and subscribed."),
    Metric("registry_mqtt_queued", "gauge", "messages", "Messages of devices that wait for the database."),
    Metric(
        "registry_mqtt_messages",
        "counter",
        "messages",
        "Messages of devices. `stored`. `unknown`: of a device that is not registered. `repeated`: a health report "
        "that was taken before. `unrecorded`: a result of a model whose results are not kept. `poison`: it cannot be "
        "read or stored, and is dropped. `dropped`: there was no room; at QoS 1 the broker sends it again.",
        ("outcome",),
    ),
    Metric("registry_mqtt_database_retries", "counter", "batches", "Batches that the database could not take at once."),
    Metric(
        "registry_mqtt_documents",
        "counter",
        "documents",
        "Desired documents. `published`. `refused`: by the broker, or not acknowledged in time; tried again. "
        "`too_large`: for the broker; the device is told to ask over HTTP.",
        ("outcome",),
    ),
    Metric(
        "registry_mqtt_refusals",
        "counter",
        "refusals",
        "Publications (PUBACK) and subscriptions (SUBACK) that the broker refused, by its reason.",
        ("reason",),
    ),
    Metric(
        "registry_mqtt_notices", "counter", "notices", "Devices that were asked for their facts, or to ask over HTTP."
    ),
    Metric(
        "registry_mqtt_notices_refused",
        "counter",
        "notices",
        "Such notices that the broker did not take; what called for them does so again.",
    ),
)


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
