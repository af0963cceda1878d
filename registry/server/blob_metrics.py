"""What the checks of blobs found, as Prometheus metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from registry.services.catalogue.blob_checks import BlobChecks


class BlobMetrics(Collector):
    """Collects from the checks of one store."""

    def __init__(self, checks: BlobChecks) -> None:
        self._checks = checks

    def collect(self) -> Iterator[Metric]:
        """The gauge and both counters."""
        yield GaugeMetricFamily(
            "modelfleet_blobs_damaged",
            "Blobs that a version or a validation set needs and whose copy is lost or wrong",
            self._checks.known_damaged,
        )
        yield CounterMetricFamily(
            "modelfleet_blobs_found_damaged", "Blobs whose copy was found lost or wrong", self._checks.found
        )
        yield CounterMetricFamily(
            "modelfleet_blob_bytes_verified", "Bytes of blobs that were read in the background", self._checks.read
        )


@asynccontextmanager
async def counting(checks: BlobChecks) -> AsyncIterator[None]:
    """The metrics, as long as the server runs."""
    metrics = BlobMetrics(checks)
    REGISTRY.register(metrics)
    try:
        yield
    finally:
        REGISTRY.unregister(metrics)
