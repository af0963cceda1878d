"""Health reports from the data path's totals: what happened since the last one, and what the host says now."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from agent.adapters.disk.artifact_cache import disk_free
from agent.adapters.facts import process_stats
from agent.adapters.facts.hardware import memory
from agent.core.health import DurationBuckets, HistogramView
from agent.dataplane.stats import DataPlaneStats, ModelSnapshot
from registry.certificates import expires_at
from registry.contracts.counters import AGENT_METRICS, MODEL_METRICS, flat
from registry.contracts.device.messages import MAX_CONTROL_BYTES, DurationTotals, Health, ModelHealth, Quantiles

FRACTIONS = (0.5, 0.9, 0.99, 1.0)
ELSEWHERE = {
    "damaged": "`damaged`",
    "data_path_info": "`data_path`, `data_path_reason`",
    "certificate_expiry_timestamp_seconds": "`certificates`",
    **dict.fromkeys(("mqtt_connected", "agent_info"), ""),
}
"""What a report says in another way, and where."""
OWN_FIELDS = tuple(name for name in AGENT_METRICS if name in Health.model_fields and name not in ELSEWHERE)
"""Figures for which a report has a field."""
COUNTS = tuple(name for name in AGENT_METRICS if name not in Health.model_fields and name not in ELSEWHERE)
"""The others."""
MODEL_FIELDS = {name: "batch_sizes" if name == "batches" else name.removesuffix("_seconds") for name in MODEL_METRICS}
"""Where a report has the figures of a model."""


class HealthReporter:
    """Call it for the next report; calls come from one thread."""

    def __init__(
        self,
        *,
        device: str,
        session_id: str,
        cores: int,
        data_dir: Path,
        snapshot: Callable[[], DataPlaneStats],
        now: Callable[[], datetime],
        damaged: Callable[[], dict[str, int]] = dict,
        certificates: Mapping[str, Path] | None = None,
    ) -> None:
        """`certificates`: PEM files by their use."""
        self._device = device
        self._session_id = session_id
        self._cores = cores
        self._data_dir = data_dir
        self._snapshot = snapshot
        self._now = now
        self._damaged = damaged
        self._certificates = certificates or {}
        self._began = self._last = time.monotonic()
        self._models: Mapping[str, ModelSnapshot] = {}
        self._cpu: dict[int, float] = {}
        self._seq = 0

    def __call__(self, restarts: Mapping[str, int]) -> Health:
        """The next report. `restarts`: how often each model's worker died."""
        stats, at = self._snapshot(), time.monotonic()
        window, earlier = max(at - self._last, 1e-3), self._models
        pids = [os.getpid(), *process_stats.children(os.getpid())]
        # What a model answered between the last report and its withdrawal is told once more, and then no more.
        last_words = {
            name: model
            for name, model in stats.withdrawn.items()
            if model.requests != (earlier[name].requests if name in earlier else 0)
        }
        models = {**stats.models, **last_words}
        self._last, self._seq = at, self._seq + 1
        self._models = {**stats.withdrawn, **stats.models}
        own: dict[str, Any] = {name: stats.total(name) for name in OWN_FIELDS}
        health = Health(
            device=self._device,
            session_id=self._session_id,
            seq=self._seq,
            at=self._now(),
            window_s=round(window, 3),
            uptime_s=round(at - self._began, 3),
            cpu_fraction=round(self._cpu_since(pids) / window / self._cores, 4),
            rss_bytes=process_stats.proportional_memory(pids),
            memory_free_bytes=memory()[1],
            disk_free_bytes=self._disk_free(),
            load_1m=process_stats.load_1m(),
            temperatures_c=process_stats.temperatures(),
            **own,
            counts=flat(stats.figures, COUNTS),
            mqtt_reconnects=max(stats.total("mqtt_connections") - 1, 0),
            damaged=self._damaged(),
            certificates={
                use: datetime.fromtimestamp(end, timezone.utc)
                for use, file in self._certificates.items()
                if (end := expires_at(file)) is not None
            },
            broker_fault=stats.broker_fault,
            data_path=stats.data_path,
            data_path_reason=stats.data_path_reason,
            models={
                name: _model_health(model, earlier.get(name), restarts.get(name, 0)) for name, model in models.items()
            },
        )
        return within_limit(health)

    def _disk_free(self) -> int | None:
        with contextlib.suppress(OSError):
            return disk_free(self._data_dir)
        return None

    def _cpu_since(self, pids: list[int]) -> float:
        """Processor seconds since the last call, of the processes that are there now."""
        now = {pid: process_stats.cpu_seconds(pid) for pid in pids}
        used = sum(max(seconds - self._cpu.get(pid, 0.0), 0.0) for pid, seconds in now.items())
        self._cpu = now
        return used


FEW_MODELS = 100
"""A report of so many is never too long."""


def within_limit(health: Health, limit: int = MAX_CONTROL_BYTES) -> Health:
    """The report, without the durations that it has no room for: the registry would refuse a longer one as a whole."""
    for left_out in (("decode", "queue_wait"), ("run",), ("latency",)):
        if len(health.models) <= FEW_MODELS or len(health.canonical()) <= limit:
            break
        none = dict.fromkeys(left_out, DurationTotals())
        models = {name: model.model_copy(update=none) for name, model in health.models.items()}
        health = health.model_copy(update={"models": models})
    return health


def _model_health(now: ModelSnapshot, earlier: ModelSnapshot | None, restarts: int) -> ModelHealth:
    return ModelHealth(
        version=now.version,
        rollout=now.rollout,
        requests=now.requests,
        errors=dict(now.errors),
        expired=now.expired,
        duplicates=now.duplicates,
        latency_us=_quantiles(now.latency, earlier.latency if earlier else None),
        run_us=_quantiles(now.run, earlier.run if earlier else None),
        queue_depth=now.queue_depth,
        queue_limit=now.queue_limit,
        batch_sizes={str(size): count for size, count in now.batches.items()},
        worker_restarts=restarts,
        batching=now.batching,
        target=now.target,
        latency=_totals(now.latency.buckets()),
        queue_wait=_totals(now.queue_wait),
        run=_totals(now.run.buckets()),
        decode=_totals(now.decode),
        not_finite=now.not_finite,
    )


def _quantiles(now: HistogramView, earlier: HistogramView | None) -> Quantiles:
    window = now.since(earlier) if earlier else now
    p50, p90, p99, longest = (round(value, 1) for value in window.quantiles(FRACTIONS))
    return Quantiles(p50=p50, p90=p90, p99=p99, max=longest)


def _totals(buckets: DurationBuckets) -> DurationTotals:
    counts = buckets.counts
    while counts and not counts[-1]:
        counts = counts[:-1]
    return DurationTotals(counts=counts, sum_s=round(max(buckets.sum_s, 0.0), 6))
