"""The bridge's tally as Prometheus metrics, read when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from registry.server.mqtt.bridge import MqttBridge

OUTCOMES = ("stored", "unknown", "repeated", "unrecorded", "poison", "dropped")
"""Of messages that devices sent; what each means, `Tally` says."""


class BridgeMetrics(Collector):
    """Collects from one bridge."""

    def __init__(self, bridge: MqttBridge) -> None:
        self._bridge = bridge

    def collect(self) -> Iterator[Metric]:
        """The bridge's counters and gauges now."""
        tally = self._bridge.tally
        messages = CounterMetricFamily(
            "modelfleet_registry_mqtt_messages", "Messages of devices by what became of them", labels=["outcome"]
        )
        for outcome in OUTCOMES:
            messages.add_metric([outcome], getattr(tally, outcome))
        yield messages
        yield CounterMetricFamily(
            "modelfleet_registry_mqtt_database_retries", "Batches the database could not take at once", tally.retries
        )
        documents = CounterMetricFamily(
            "modelfleet_registry_mqtt_documents", "Desired documents by what the broker said", labels=["outcome"]
        )
        documents.add_metric(["published"], tally.published)
        documents.add_metric(["refused"], tally.refused)
        documents.add_metric(["too_large"], tally.too_large)
        yield documents
        refusals = CounterMetricFamily(
            "modelfleet_registry_mqtt_refusals", "What the broker refused, by its reason", labels=["reason"]
        )
        for reason, number in sorted(self._bridge.refusals.items()):
            refusals.add_metric([reason], number)
        yield refusals
        yield CounterMetricFamily(
            "modelfleet_registry_mqtt_notices", "Devices asked for their facts, or told to ask over HTTP", tally.notices
        )
        yield GaugeMetricFamily(
            "modelfleet_registry_mqtt_connected", "1 when connected and subscribed", float(self._bridge.connected)
        )
        yield GaugeMetricFamily(
            "modelfleet_registry_mqtt_queued", "Messages waiting for the database", self._bridge.queued
        )
