"""The fleet's part of the composition: what knows devices, and what runs beside the requests for them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from starlette.concurrency import run_in_threadpool

from registry.config import RegistryConfig
from registry.core.retention import RetentionLimits
from registry.db.after_commit import Changed
from registry.db.engine import Database
from registry.server.mqtt.bridge import MqttBridge
from registry.server.rolling import Waker
from registry.services.catalogue.coverage import Coverage
from registry.services.deployments import Deployments
from registry.services.fleet.desired import DesiredDocuments
from registry.services.fleet.devices import Devices
from registry.services.fleet.fleet_log import FleetLog
from registry.services.fleet.groups import Groups
from registry.services.fleet.health import HealthHistory
from registry.services.fleet.presence import PresenceTracker
from registry.services.fleet.publication import Publication
from registry.services.fleet.results import Results
from registry.services.fleet.retention import RetentionSweep
from registry.services.jobs import Jobs
from registry.services.rollouts.lease import holder_in
from registry.services.rollouts.planning import Planner
from registry.services.rollouts.rollouts import Rollouts
from registry.services.rollouts.ticker import Ticker
from registry.services.telemetry import Telemetry
from registry.services.webhooks import Webhooks


@dataclass(frozen=True)
class FleetServices:
    """The use cases of devices."""

    documents: DesiredDocuments
    devices: Devices
    deployments: Deployments
    coverage: Coverage
    jobs: Jobs
    telemetry: Telemetry
    presence: PresenceTracker
    health: HealthHistory
    results: Results
    retention: RetentionSweep
    groups: Groups
    log: FleetLog
    webhooks: Webhooks
    rollouts: Rollouts
    ticker: Ticker
    waker: Waker
    bridge: MqttBridge | None
    """None: no broker is configured."""


def build_fleet(config: RegistryConfig, clock: Callable[[], datetime], database: Database) -> FleetServices:
    """Everything of the fleet; nothing of it runs yet."""
    log, waker = FleetLog(database), Waker()
    two_person = config.rollouts.two_person
    planner, holder = Planner(database, two_person=two_person), holder_in(config.data_dir)
    ticker = Ticker(database, planner, steady=time.monotonic, holder=holder)
    for changed in (Changed.FLEET, Changed.ROLLOUTS):  # after the ticker, so that it knows before it is woken
        database.listeners.add(changed, lambda _: waker.wake())
    expiry_s = config.presence.expiry_s
    telemetry = Telemetry(database, expiry_s=expiry_s)
    limits = RetentionLimits(
        health_hours=config.retention.health_hours,
        event_hours=config.retention.events_hours,
        max_results=config.retention.max_results,
    )
    bridge = None
    if config.mqtt.enabled:
        bridge = MqttBridge(config.mqtt, clock, telemetry, Publication(database), probe=database.probe)
    return FleetServices(
        documents=DesiredDocuments(database),
        devices=Devices(database),
        deployments=Deployments(database),
        coverage=Coverage(database),
        jobs=Jobs(database, timedelta(hours=limits.event_hours)),
        telemetry=telemetry,
        presence=PresenceTracker(database, expiry_s),
        health=HealthHistory(database),
        results=Results(database),
        retention=RetentionSweep(database, limits),
        groups=Groups(database),
        log=log,
        rollouts=Rollouts(database, two_person=two_person),
        ticker=ticker,
        waker=waker,
        webhooks=Webhooks(database, log, allow_private=config.webhooks.allow_private),
        bridge=bridge,
    )


@asynccontextmanager
async def bridging(fleet: FleetServices) -> AsyncIterator[None]:
    """The bridge, as long as the server runs. A broker that is away holds up nothing."""
    if fleet.bridge is None:
        yield
        return
    try:
        await run_in_threadpool(fleet.bridge.start)
        yield
    finally:
        await run_in_threadpool(fleet.bridge.stop)
