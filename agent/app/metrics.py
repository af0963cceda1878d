"""Prometheus text at an optional local port: the figures of the agent's tables, read when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from agent.adapters.facts.hardware import agent_version
from agent.core.health import DurationBuckets, HistogramView
from agent.dataplane.stats import DataPlaneStats, ModelSnapshot
from agent.errors import PermanentError
from registry.certificates import expires_at
from registry.contracts.counters import AGENT_METRICS, MODEL_METRICS, Figures, Metric
from registry.metric_text import duration_family, family

STOP_SECONDS = 2.0
"""For the server's thread to end; it is a daemon, so nothing waits for it after that."""


class MetricsServer:
    """Answers `/metrics`. Off unless an address is set; it has no password, so keep it on loopback."""

    def __init__(
        self,
        address: str,
        snapshot: Callable[[], DataPlaneStats],
        damaged: Callable[[], Mapping[str, int]],
        restarts: Callable[[], Mapping[str, int]],
        certificates: Mapping[str, Path],
    ) -> None:
        """`restarts`: how often the worker of each model was started again. `certificates`: PEM files by use."""
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._collector = _StatsCollector(snapshot, damaged, restarts, certificates)

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
    def __init__(
        self,
        snapshot: Callable[[], DataPlaneStats],
        damaged: Callable[[], Mapping[str, int]],
        restarts: Callable[[], Mapping[str, int]],
        certificates: Mapping[str, Path],
    ) -> None:
        self._certificates = certificates
        self._snapshot = snapshot
        self._damaged = damaged
        self._restarts = restarts

    def collect(self) -> Iterator[Family]:
        stats, restarts = self._snapshot(), self._restarts()
        figures: Figures = {
            **stats.figures,
            "damaged": {(kind,): float(n) for kind, n in self._damaged().items()},
            "agent_info": {(agent_version(),): 1.0},
            "certificate_expiry_timestamp_seconds": {
                (name,): at for name, file in self._certificates.items() if (at := expires_at(file)) is not None
            },
        }
        for metric in AGENT_METRICS.values():
            yield family(metric, figures.get(metric.name, {}).items())
        for metric in MODEL_METRICS.values():
            if metric.kind == "histogram":
                yield duration_family(metric, _durations(metric, stats.models))
            elif metric.name == "worker_restarts":
                yield family(metric, ((_who(name, m), restarts.get(name, 0)) for name, m in stats.models.items()))
            else:
                yield family(metric, _of_models(metric, stats.models))

    def describe(self) -> Iterator[Family]:
        """Nothing is collected at registration: the data path may not run yet."""
        return iter(())


def _who(name: str, model: ModelSnapshot) -> tuple[str, ...]:
    return name, model.version or ""


def _durations(
    metric: Metric, models: Mapping[str, ModelSnapshot]
) -> Iterator[tuple[tuple[str, ...], DurationBuckets]]:
    for name, model in models.items():
        found = getattr(model, metric.name.removesuffix("_seconds"))
        yield _who(name, model), found.buckets() if isinstance(found, HistogramView) else found


def _of_models(metric: Metric, models: Mapping[str, ModelSnapshot]) -> Iterator[tuple[tuple[str, ...], float]]:
    for name, model in models.items():
        who, found = _who(name, model), getattr(model, metric.name)
        if isinstance(found, Mapping):
            yield from (((*who, str(label)), value) for label, value in found.items())
        else:
            yield who, found
