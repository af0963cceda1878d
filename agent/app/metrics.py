"""Prometheus text at an optional local port: the data path's totals, read when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from agent.core.health import HistogramView
from agent.dataplane.stats import DataPlaneStats
from agent.errors import PermanentError

Metric = CounterMetricFamily | GaugeMetricFamily
QUANTILES = (0.5, 0.9, 0.99)

STOP_SECONDS = 2.0
"""For the server's thread to end; it is a daemon, so nothing waits for it after that."""


class MetricsServer:
    """Answers `/metrics`. Off unless an address is set; it has no password, so keep it on loopback."""

    def __init__(self, address: str, snapshot: Callable[[], DataPlaneStats]) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._snapshot = snapshot
        self._running: tuple[WSGIServer, Thread] | None = None

    def start(self) -> None:
        """Raises PermanentError when the address cannot be had."""
        registry = CollectorRegistry()
        registry.register(_StatsCollector(self._snapshot))
        try:
            self._running = start_http_server(self._port, self._host, registry)
        except (OSError, OverflowError) as error:
            raise PermanentError("bad_config", f"prometheus = {self._host}:{self._port}: {error}") from error

    def stop(self) -> None:
        """Safe to call when it never started."""
        if self._running is not None:
            server, thread = self._running
            server.shutdown()
            server.server_close()
            thread.join(STOP_SECONDS)
            self._running = None


class _StatsCollector(Collector):
    def __init__(self, snapshot: Callable[[], DataPlaneStats]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        stats = self._snapshot()
        yield from _agent_metrics(stats)
        yield from _model_metrics(stats)

    def describe(self) -> Iterator[Metric]:
        """Nothing is collected at registration: the data path may not run yet."""
        return iter(())


def _agent_metrics(stats: DataPlaneStats) -> Iterator[Metric]:
    yield GaugeMetricFamily("modelfleet_mqtt_connected", "1 while the broker is there", value=float(stats.connected))
    yield GaugeMetricFamily("modelfleet_outbox_rows", "Messages that wait on disk", value=stats.outbox_rows)
    unwritten = "Results that the disk does not take now, unacknowledged"
    yield GaugeMetricFamily("modelfleet_results_unwritten", unwritten, value=stats.results_unwritten)
    for name, text, value in (
        ("modelfleet_mqtt_connections", "Sessions opened with the broker", stats.connections),
        ("modelfleet_outbox_dropped", "Messages that the full outbox dropped", stats.outbox_dropped),
        ("modelfleet_replies_dropped", "QoS 0 replies lost with the connection", stats.replies_dropped),
        ("modelfleet_replies_refused", "QoS 1 messages that the broker does not take", stats.replies_refused),
        (
            "modelfleet_subscriptions_refused",
            "Subscriptions that the broker does not take",
            stats.subscriptions_refused,
        ),
    ):
        yield CounterMetricFamily(name, text, value=value)


def _model_metrics(stats: DataPlaneStats) -> Iterator[Metric]:
    labels = ("model", "version")
    requests = CounterMetricFamily("modelfleet_requests", "Requests answered, errors included", labels=labels)
    errors = CounterMetricFamily("modelfleet_errors", "Requests answered with an error", labels=(*labels, "code"))
    expired = CounterMetricFamily("modelfleet_expired", "Requests dropped unrun, too late", labels=labels)
    depth = GaugeMetricFamily("modelfleet_queue_depth", "Requests that wait", labels=labels)
    latency = GaugeMetricFamily(
        "modelfleet_latency_seconds", "Request in to reply out, since the start", labels=(*labels, "quantile")
    )
    run = GaugeMetricFamily("modelfleet_run_seconds", "One batch in the backend", labels=(*labels, "quantile"))
    for name, model in stats.models.items():
        who = (name, model.version or "")
        requests.add_metric(who, model.requests)
        expired.add_metric(who, model.expired)
        depth.add_metric(who, model.queue_depth)
        for code, count in model.errors.items():
            errors.add_metric((*who, code), count)
        _add_quantiles(latency, who, model.latency)
        _add_quantiles(run, who, model.run)
    yield from (requests, errors, expired, depth, latency, run)


def _add_quantiles(metric: GaugeMetricFamily, who: tuple[str, str], view: HistogramView) -> None:
    for fraction in QUANTILES:
        metric.add_metric((*who, str(fraction)), view.quantile(fraction) / 1e6)
