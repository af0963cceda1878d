"""The figures of one registry that are read when somebody asks for `/metrics`.

While the database cannot be read, what is counted in it is left out, and `database_refusals` says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from registry.blobs.base import BlobStore
from registry.certificates import expires_at, not_after
from registry.config import Mqtt
from registry.contracts.api.fleet import FleetSummary
from registry.contracts.counters import OTHER
from registry.contracts.rollout.states import ActionState, RolloutState
from registry.db.catalog_rows import BlobRow
from registry.db.engine import Database
from registry.db.rollout_rows import RolloutRow, WebhookRow
from registry.errors import TemporaryError
from registry.metric_text import duration_family
from registry.server.composition import Clock, Services
from registry.server.metric_table import REGISTRY_METRICS
from registry.server.metrics import figure
from registry.server.mqtt.bridge import MqttBridge
from registry.services.catalogue.blob_upkeep import BlobChecks
from registry.services.fleet.queues import Waiting, queues
from registry.services.rollouts.store import ACTIVE
from registry.services.tallies import tallied_of
from registry.services.telemetry import Telemetry
from registry.services.trust.view import expiries


class FleetMetrics(Collector):
    """Of one registry."""

    def __init__(self, services: Services) -> None:
        fleet, config = services.fleet, services.config
        bridge = fleet.bridge
        self._sources: list[Callable[[], Iterable[Metric]]] = [
            lambda: [figure("registry_info", {(own_version(), config.instance): 1})],
            lambda: presence_metrics(*fleet.presence.count(services.clock())),
            lambda: state_metrics(fleet.figures.summary(services.clock())),
            lambda: answer_metrics(fleet.telemetry),
            lambda: database_metrics(services.database),
            lambda: rollout_metrics(services.database),
            lambda: share_metrics(services),
            lambda: blob_metrics(services.checks, services.database, services.blobs),
            lambda: queue_metrics(services.database, bridge, services.clock),
            lambda: certificate_metrics(config.mqtt, bridge),
            lambda: trust_metrics(services.database),
            lambda: [
                figure(
                    "fleet_certificate_expiry_timestamp_seconds",
                    fleet.telemetry.certificates.soonest(services.clock()),
                )
            ],
        ]
        if bridge is not None:
            self._sources.append(lambda: bridge_metrics(bridge))

    def collect(self) -> Iterator[Metric]:
        """All of them now."""
        for source in self._sources:
            with suppress(TemporaryError):
                yield from source()


def own_version() -> str:
    """Of this package."""
    try:
        return version("modelfleet")
    except PackageNotFoundError:  # run from its sources, not installed
        return "unknown"


def presence_metrics(online: int, offline: int, rivals: int) -> Iterator[Metric]:
    """Devices by presence."""
    yield figure("devices", {("online",): online, ("offline",): offline})
    yield figure("devices_with_two_agents", rivals)


MAX_SERVED = 1000
"""Models, versions and hardware that are shown apart; the rest, the fewest, is summed under OTHER."""


def state_metrics(summary: FleetSummary) -> Iterator[Metric]:
    """In which states devices are, and what they serve."""
    yield figure("fleet_devices", {(state.value,): number for state, number in summary.connection.items()})
    yield figure("fleet_devices_serving", {(state.value,): number for state, number in summary.serving.items()})
    yield figure("fleet_devices_failing", {(code,): number for code, number in summary.failing.items()})
    yield figure("fleet_devices_behind", summary.behind)
    served: Counter[tuple[str, ...]] = Counter()
    for row in summary.versions:
        served[row.model, row.version or "", row.hardware] += row.devices
    shown = dict(served.most_common(MAX_SERVED))
    if rest := served.total() - sum(shown.values()):
        shown[OTHER, OTHER, OTHER] = rest
    yield figure("fleet_models", {labels: float(number) for labels, number in shown.items()})


def answer_metrics(telemetry: Telemetry) -> Iterator[Metric]:
    """What devices answered, and how much they say."""
    totals = telemetry.totals
    yield figure("fleet_requests", totals.requests())
    yield figure("fleet_errors", totals.errors())
    yield duration_family(REGISTRY_METRICS["fleet_latency_seconds"], sorted(totals.latency().items()))
    yield duration_family(REGISTRY_METRICS["fleet_run_seconds"], sorted(totals.run().items()))
    yield figure("device_messages", telemetry.received())
    yield figure("fleet_agents", telemetry.agents())


def database_metrics(database: Database) -> Iterator[Metric]:
    """How often another transaction was in the way, and how often the database could not do its work."""
    yield figure("database_conflicts", database.conflicts)
    yield figure("database_refusals", {(code,): number for code, number in database.refusals.items()})


def rollout_metrics(database: Database) -> Iterator[Metric]:
    """Rollouts by state, and by state the devices of those that are under way. Raises TemporaryError."""
    rollouts: dict[tuple[str, ...], float] = {(state.value,): 0 for state in RolloutState}
    devices: dict[tuple[str, ...], float] = {(state.value,): 0 for state in ActionState}
    by_state = select(RolloutRow.state, func.count()).group_by(RolloutRow.state)
    active = select(RolloutRow.id).where(RolloutRow.state.in_(ACTIVE))
    disabled = select(func.count()).select_from(WebhookRow).where(WebhookRow.disabled_at.is_not(None))
    with database.read() as session:
        rollouts.update(((state,), number) for state, number in session.execute(by_state))
        for (_, state, *_), number in tallied_of(session, "rollout", active).items():
            devices[state,] += number
        off = session.scalar(disabled) or 0
    yield figure("rollouts", rollouts)
    yield figure("rollout_devices", devices)
    yield figure("webhooks_disabled", off)


def share_metrics(services: Services) -> Iterator[Metric]:
    """Who has how much, and what was refused to whom had all of his part."""
    yield figure("share_refusals", services.shares.totals())
    for places in services.places:
        yield figure("connections", places.open)
        yield figure("connections_refused", {(lack.value,): number for lack, number in places.refused.items()})
        yield figure("connections_given_up", places.gave_way)


def blob_metrics(checks: BlobChecks, database: Database, blobs: BlobStore) -> Iterator[Metric]:
    """What is stored, what there is room for, and what the checks found. Raises TemporaryError."""
    yield figure("blobs_damaged", checks.known_damaged)
    yield figure("blobs_found_damaged", checks.found)
    yield figure("blob_bytes_verified", checks.read)
    free = blobs.free_bytes()
    if free is not None:
        yield figure("blob_disk_free_bytes", free)
    with database.read() as session:
        number, size = session.execute(select(func.count(), func.sum(BlobRow.size))).one()
    yield figure("blobs", number)
    yield figure("blob_bytes", int(size or 0))


def queue_metrics(database: Database, bridge: MqttBridge | None, clock: Clock) -> Iterator[Metric]:
    """What waits, and how long the first of it has. Raises TemporaryError."""
    with database.read() as session:
        found = queues(session)
    now = clock()
    lengths: dict[tuple[str, ...], float] = {(name,): waiting.length for name, waiting in found.items()}
    ages: dict[tuple[str, ...], float] = {
        (name,): 0.0 if waiting.since is None else max((now - waiting.since).total_seconds(), 0.0)
        for name, waiting in found.items()
        if _tells_age(waiting)
    }
    if bridge is not None:
        lengths["messages",], ages["messages",] = bridge.queued, bridge.waits_s
    yield figure("queue_length", lengths)
    yield figure("queue_oldest_seconds", ages)


def _tells_age(waiting: Waiting) -> bool:
    return waiting.length == 0 or waiting.since is not None


def certificate_metrics(config: Mqtt, bridge: MqttBridge | None) -> Iterator[Metric]:
    """When certificates end that this registry uses or sees."""
    yield figure("certificate_expiry_timestamp_seconds", certificate_ends(config, bridge))


def trust_metrics(database: Database) -> Iterator[Metric]:
    """When signed metadata expire."""
    with database.read() as session:
        yield figure("trust_expiry_timestamp_seconds", expiries(session))


def certificate_ends(config: Mqtt, bridge: MqttBridge | None) -> dict[tuple[str, ...], float]:
    """The same as Unix time, by whose it is."""
    files = {"broker_authority": config.ca_file, "broker_client": config.cert_file}
    found: dict[tuple[str, ...], float] = {}
    for name, file in files.items():
        if config.tls and file is not None and (at := expires_at(file)) is not None:
            found[name,] = at
    shown = None if bridge is None else bridge.certificate()
    if shown is not None:
        with suppress(ValueError):
            found["broker",] = not_after(shown)
    return found


def bridge_metrics(bridge: MqttBridge) -> Iterator[Metric]:
    """The bridge's counters and gauges."""
    yield from (figure(name, samples) for name, samples in bridge.counters.figures().items())
    yield figure("registry_mqtt_connected", float(bridge.connected))
    yield figure("registry_mqtt_queued", bridge.queued)
