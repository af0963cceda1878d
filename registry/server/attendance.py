"""Notes at a start that the registry listens again, before anything asks who is there; and counts who is."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool

from registry.errors import TemporaryError
from registry.services.fleet.presence import PresenceTracker

log = logging.getLogger(__name__)


class PresenceMetrics(Collector):
    """Devices by presence, counted when somebody asks."""

    def __init__(self, presence: PresenceTracker, clock: Callable[[], datetime]) -> None:
        self._presence, self._clock = presence, clock

    def collect(self) -> Iterator[Metric]:
        """Both gauges; none while the database cannot be read."""
        try:
            online, offline, rivals = self._presence.count(self._clock())
        except TemporaryError:
            return
        devices = GaugeMetricFamily("modelfleet_devices", "Devices by presence", labels=["presence"])
        devices.add_metric(["online"], online)
        devices.add_metric(["offline"], offline)
        yield devices
        yield GaugeMetricFamily(
            "modelfleet_devices_with_two_agents", "Devices whose name two agents run under at the same time", rivals
        )


@asynccontextmanager
async def attending(presence: PresenceTracker, clock: Callable[[], datetime]) -> AsyncIterator[None]:
    """The first of the scheduler's notes, and the metrics, as long as the server runs."""
    try:
        await run_in_threadpool(presence.listen, clock())
    except TemporaryError:
        pass  # the database has said it; the scheduler tries again
    except Exception:
        log.exception("presence: that the registry listens cannot be noted; the scheduler tries again")
    metrics = PresenceMetrics(presence, clock)
    REGISTRY.register(metrics)
    try:
        yield
    finally:
        REGISTRY.unregister(metrics)
