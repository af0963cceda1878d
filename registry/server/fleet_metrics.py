"""Metrics that are read when somebody asks: the fleet, rollouts, the database, blobs and the bridge.

While the database cannot be read, what is counted in it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from registry.contracts.rollout.states import ActionState, RolloutState
from registry.db.engine import Database
from registry.db.rollout_rows import ActionRow, RolloutRow
from registry.errors import TemporaryError
from registry.server.composition import Services
from registry.server.metrics import figure
from registry.server.mqtt.bridge import MqttBridge
from registry.services.catalogue.blob_upkeep import BlobChecks
from registry.services.rollouts.store import ACTIVE


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
    yield figure("devices", {("online",): online, ("offline",): offline})
    yield figure("devices_with_two_agents", rivals)


def database_metrics(database: Database) -> Iterator[Metric]:
    """How often another transaction was in the way, and how often the database could not do its work."""
    yield figure("database_conflicts", database.conflicts)
    yield figure("database_refusals", {(code,): number for code, number in database.refusals.items()})


def rollout_metrics(database: Database) -> Iterator[Metric]:
    """Rollouts by state, and by state the devices of those that are under way. Raises TemporaryError."""
    rollouts: dict[tuple[str, ...], float] = {(state.value,): 0 for state in RolloutState}
    devices: dict[tuple[str, ...], float] = {(state.value,): 0 for state in ActionState}
    by_state = select(RolloutRow.state, func.count()).group_by(RolloutRow.state)
    of_devices = select(ActionRow.state, func.count()).join(RolloutRow).where(RolloutRow.state.in_(ACTIVE))
    with database.read() as session:
        rollouts.update(((state,), number) for state, number in session.execute(by_state))
        devices.update(((state,), n) for state, n in session.execute(of_devices.group_by(ActionRow.state)))
    yield figure("rollouts", rollouts)
    yield figure("rollout_devices", devices)


def blob_metrics(checks: BlobChecks) -> Iterator[Metric]:
    """What the checks of blobs found."""
    yield figure("blobs_damaged", checks.known_damaged)
    yield figure("blobs_found_damaged", checks.found)
    yield figure("blob_bytes_verified", checks.read)


def bridge_metrics(bridge: MqttBridge) -> Iterator[Metric]:
    """The bridge's counters and gauges."""
    yield from (figure(name, samples) for name, samples in bridge.counters.figures().items())
    yield figure("registry_mqtt_connected", float(bridge.connected))
    yield figure("registry_mqtt_queued", bridge.queued)
