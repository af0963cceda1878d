"""Prometheus text at an optional local port: the figures of the agent's tables, read when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from agent.core.health import HistogramView
from agent.dataplane.stats import DataPlaneStats, ModelSnapshot
from agent.errors import PermanentError
from registry.contracts.counters import AGENT_METRICS, MODEL_METRICS, PREFIX, Figures, Metric

Family = CounterMetricFamily | GaugeMetricFamily
QUANTILES = (0.5, 0.9, 0.99)

STOP_SECONDS = 2.0
"""For the server's thread to end; it is a daemon, so nothing waits for it after that."""


class MetricsServer:
    """Answers `/metrics`. Off unless an address is set; it has no password, so keep it on loopback."""

    def __init__(
        self, address: str, snapshot: Callable[[], DataPlaneStats], damaged: Callable[[], Mapping[str, int]]
    ) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._collector = _StatsCollector(snapshot, damaged)

    def start(self) -> None:
        """Raises PermanentError when the address cannot be had."""
        registry = CollectorRegistry()
        registry.register(self._collector)
        try:
            self._server, self._thread = start_http_server(self._port, self._host, registry)
        except (OSError, OverflowError) as error:
            raise PermanentError("bad_config", f"prometheus = {self._host}:{self._port}: {error}") from error

    def stop(self) -> None:
        """Once, after `start`."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(STOP_SECONDS)


class _StatsCollector(Collector):
    def __init__(self, snapshot: Callable[[], DataPlaneStats], damaged: Callable[[], Mapping[str, int]]) -> None:
        self._snapshot = snapshot
        self._damaged = damaged

    def collect(self) -> Iterator[Family]:
        stats = self._snapshot()
        figures: Figures = {**stats.figures, "damaged": {(kind,): float(n) for kind, n in self._damaged().items()}}
        for metric in AGENT_METRICS.values():
            yield _family(metric, figures.get(metric.name, {}).items())
        for metric in MODEL_METRICS.values():
            yield _family(metric, _of_models(metric, stats.models))

    def describe(self) -> Iterator[Family]:
        """Nothing is collected at registration: the data path may not run yet."""
        return iter(())


def _family(metric: Metric, samples: Iterable[tuple[tuple[str, ...], float]]) -> Family:
    made = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}[metric.kind]
    family: Family = made(PREFIX + metric.name, metric.meaning, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _of_models(metric: Metric, models: Mapping[str, ModelSnapshot]) -> Iterator[tuple[tuple[str, ...], float]]:
    for name, model in models.items():
        who, found = (name, model.version or ""), getattr(model, metric.name.removesuffix("_seconds"))
        if isinstance(found, HistogramView):
            yield from (((*who, str(fraction)), found.quantile(fraction) / 1e6) for fraction in QUANTILES)
        elif isinstance(found, Mapping):
            yield from (((*who, str(label)), value) for label, value in found.items())
        else:
            yield who, found
