"""Metrics that are read when somebody asks: the fleet, rollouts, the database, blobs and the bridge.

While the database cannot be read, what is counted in it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from registry.contracts.rollout.states import ActionState, RolloutState
from registry.db.engine import Database
from registry.db.rollout_rows import ActionRow, RolloutRow
from registry.errors import TemporaryError
from registry.server.composition import Services
from registry.server.mqtt.bridge import MqttBridge
from registry.services.catalogue.blob_checks import BlobChecks
from registry.services.rollouts.store import ACTIVE

OUTCOMES = ("stored", "unknown", "repeated", "unrecorded", "poison", "dropped")
"""Of messages that devices sent; what each means, `BridgeCounters` says."""


class FleetMetrics(Collector):
    """Of one registry."""

    def __init__(self, services: Services) -> None:
        fleet = services.fleet
        self._sources: list[Callable[[], Iterable[Metric]]] = [
            lambda: presence_metrics(*fleet.presence.count(services.clock())),
            lambda: database_metrics(services.database),
            lambda: rollout_metrics(services.database),
            lambda: blob_metrics(services.checks),
        ]
        if (bridge := fleet.bridge) is not None:
            self._sources.append(lambda: bridge_metrics(bridge))

    def collect(self) -> Iterator[Metric]:
        """All of them now."""
        for source in self._sources:
            with suppress(TemporaryError):
                yield from source()


@contextmanager
def measured(services: Services) -> Iterator[None]:
    """The metrics, as long as the server runs."""
    metrics = FleetMetrics(services)
    REGISTRY.register(metrics)
    try:
        yield
    finally:
        REGISTRY.unregister(metrics)


def presence_metrics(online: int, offline: int, rivals: int) -> Iterator[Metric]:
    """Devices by presence."""
    yield _by(GaugeMetricFamily, "modelfleet_devices", "Devices by presence", "presence",
              {"online": online, "offline": offline})  # fmt: skip
    yield GaugeMetricFamily(
        "modelfleet_devices_with_two_agents", "Devices whose name two agents run under at the same time", rivals
    )


def database_metrics(database: Database) -> Iterator[Metric]:
    """How often another transaction was in the way, and how often the database could not do its work."""
    yield CounterMetricFamily(
        "modelfleet_database_conflicts",
        "Writes that another process was in the way of, and that are done again",
        database.conflicts,
    )
    yield _by(CounterMetricFamily, "modelfleet_database_refusals",
              "Reads and writes that the database could not do, by code", "code", database.refusals)  # fmt: skip


def rollout_metrics(database: Database) -> Iterator[Metric]:
    """Rollouts by state, and by state the devices of those that are under way. Raises TemporaryError."""
    with database.read() as session:
        by_state = select(RolloutRow.state, func.count()).group_by(RolloutRow.state)
        rollouts = {state: number for state, number in session.execute(by_state)}  # noqa: C416 - rows are no pairs
        of_devices = select(ActionRow.state, func.count()).join(RolloutRow).where(RolloutRow.state.in_(ACTIVE))
        devices = {s: number for s, number in session.execute(of_devices.group_by(ActionRow.state))}  # noqa: C416
    yield _by(GaugeMetricFamily, "modelfleet_rollouts", "Rollouts by state", "state",
              {state.value: rollouts.get(state.value, 0) for state in RolloutState})  # fmt: skip
    yield _by(GaugeMetricFamily, "modelfleet_rollout_devices", "Devices in rollouts that are under way, by state",
              "state", {state.value: devices.get(state.value, 0) for state in ActionState})  # fmt: skip


def blob_metrics(checks: BlobChecks) -> Iterator[Metric]:
    """What the checks of blobs found."""
    yield GaugeMetricFamily(
        "modelfleet_blobs_damaged",
        "Blobs that a version or a validation set needs and whose copy is lost or wrong",
        checks.known_damaged,
    )
    yield CounterMetricFamily(
        "modelfleet_blobs_found_damaged", "Blobs whose copy was found lost or wrong", checks.found
    )
    yield CounterMetricFamily(
        "modelfleet_blob_bytes_verified", "Bytes of blobs that were read in the background", checks.read
    )


def bridge_metrics(bridge: MqttBridge) -> Iterator[Metric]:
    """The bridge's counters and gauges."""
    tally = bridge.tally
    yield _by(CounterMetricFamily, "modelfleet_registry_mqtt_messages", "Messages of devices by what became of them",
              "outcome", {outcome: getattr(tally, outcome) for outcome in OUTCOMES})  # fmt: skip
    yield CounterMetricFamily(
        "modelfleet_registry_mqtt_database_retries", "Batches the database could not take at once", tally.retries
    )
    yield _by(CounterMetricFamily, "modelfleet_registry_mqtt_documents", "Desired documents by what the broker said",
              "outcome", {name: getattr(tally, name) for name in ("published", "refused", "too_large")})  # fmt: skip
    yield _by(CounterMetricFamily, "modelfleet_registry_mqtt_refusals", "What the broker refused, by its reason",
              "reason", bridge.refusals)  # fmt: skip
    yield CounterMetricFamily(
        "modelfleet_registry_mqtt_notices", "Devices asked for their facts, or told to ask over HTTP", tally.notices
    )
    yield GaugeMetricFamily(
        "modelfleet_registry_mqtt_connected", "1 when connected and subscribed", float(bridge.connected)
    )
    yield GaugeMetricFamily("modelfleet_registry_mqtt_queued", "Messages waiting for the database", bridge.queued)


def _by(
    family: type[CounterMetricFamily | GaugeMetricFamily], name: str, text: str, label: str, numbers: Mapping[str, int]
) -> Metric:
    made = family(name, text, labels=[label])
    for value, number in sorted(numbers.items()):
        made.add_metric([value], number)
    return made
