"""The composition root: builds every service once, from the settings. Nothing else constructs services.

To add a service: a field of `Services` or, where it knows devices, of `FleetServices`, and a line where they are built.
To let something run beside the requests (a scheduler, the MQTT bridge): a context manager in `app.BACKGROUND`.

Rollouts are moved by threads that tick and plan when something happened; the clock's ticks are the scheduler's. Events
come together: after a tick the next one waits PAUSE_S, so that a thousand reports a second are not a thousand ticks.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from registry.blobs.base import BlobStore
from registry.blobs.filesystem import lock_folder
from registry.blobs.opening import open_blobs
from registry.client.address import ADMIN_TOKEN_FILE
from registry.config import RegistryConfig
from registry.core.retention import RetentionLimits
from registry.core.shares import part_of
from registry.db.engine import Changed, Database, open_database
from registry.errors import InTheWayError, RegistryError, StartError, TemporaryError
from registry.private_files import make_private
from registry.server.connections import Connections
from registry.server.index_progress import IndexProgress
from registry.server.mqtt.bridge import MqttBridge
from registry.server.readiness import Readiness
from registry.services.access.second_person import SecondPerson
from registry.services.catalogue.blob_upkeep import BlobChecks, Garbage
from registry.services.catalogue.coverage import Coverage
from registry.services.catalogue.disk_use import DiskUse
from registry.services.catalogue.models import Aliases, Models
from registry.services.catalogue.uploads import UploadLimits, Uploads
from registry.services.catalogue.versions import Conversions, Versions
from registry.services.catalogue.yanking import Yanking
from registry.services.console_sessions import ConsoleSessions
from registry.services.deployments import Deployments
from registry.services.evaluations import Datasets, Evaluations, ParityTable
from registry.services.fleet.desired import DesiredDocuments, Publication
from registry.services.fleet.device_index import rebuild_index
from registry.services.fleet.devices import Devices
from registry.services.fleet.events import FleetEvents
from registry.services.fleet.fleet_log import FleetLog
from registry.services.fleet.groups import Groups
from registry.services.fleet.health_series import HealthOverTime
from registry.services.fleet.history import HealthHistory, Results
from registry.services.fleet.labels import Labels
from registry.services.fleet.over_time import AnswerSums, ConnectionSamples, VersionSamples
from registry.services.fleet.presence import PresenceTracker
from registry.services.fleet.retention import RetentionSweep
from registry.services.fleet.summary import FleetFigures
from registry.services.intake.budgets import IntakeBudgets
from registry.services.intake.kept import KeptBound, KeptOfDevices
from registry.services.jobs import Jobs
from registry.services.restoring import Restored, restored
from registry.services.rollouts.planning import Planner, holder_in
from registry.services.rollouts.rollouts import Rollouts
from registry.services.rollouts.ticker import Ticker
from registry.services.shares import ShareRefusals
from registry.services.telemetry import Telemetry
from registry.services.tokens import Access, Tokens, read_token
from registry.services.trust.director import Director
from registry.services.trust.trust import Trust
from registry.services.trust_changes import TrustChanges
from registry.services.webhooks import Webhooks

PAUSE_S = 0.2
JOIN_S = 10.0
log = logging.getLogger(__name__)


class Waker:
    """Takes steps soon after `wake`, each kind in a thread of its own. Thread-safe; `wake` never waits for a step."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wakes = 0
        self._stopping = threading.Event()

    def wake(self) -> None:
        """Something happened that a rollout may wait for."""
        with self._changed:
            self._wakes += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """No more steps."""
        self._stopping.set()
        self.wake()

    def run(self, step: Callable[[Callable[[], bool]], object]) -> None:
        """Until `stop`; `step` gets what tells it to end early."""
        seen = 0
        while True:
            with self._changed:
                while self._wakes == seen:
                    self._changed.wait()
                seen = self._wakes
            if self._stopping.is_set():
                return
            try:
                step(self._stopping.is_set)
            except InTheWayError as error:
                log.info("rollouts: %s", error.message)
            except TemporaryError:
                pass  # the database has said it; the scheduler tries again
            except RegistryError as error:
                log.warning("rollouts: %s; the scheduler tries again", error.message)
            except Exception:
                log.exception("rollouts: a step failed; the scheduler tries again")
            self._stopping.wait(PAUSE_S)


@asynccontextmanager
async def rolling(waker: Waker, ticker: Ticker, clock: Callable[[], datetime]) -> AsyncIterator[None]:
    """The threads, as long as the server runs."""
    steps = {
        "rollouts": lambda stop: ticker.tick(clock(), stop),
        "plans": lambda stop: ticker.plan(clock, stop),
    }
    threads = [threading.Thread(target=waker.run, args=(step,), name=name, daemon=True) for name, step in steps.items()]
    for thread in threads:
        thread.start()
    waker.wake()  # what a killed process left undone
    try:
        yield
    finally:
        waker.stop()
        for thread in threads:
            await run_in_threadpool(thread.join, JOIN_S)


@dataclass(frozen=True)
class FleetServices:
    """The use cases of devices."""

    documents: DesiredDocuments
    publication: Publication
    devices: Devices
    labels: Labels
    deployments: Deployments
    coverage: Coverage
    jobs: Jobs
    telemetry: Telemetry
    presence: PresenceTracker
    figures: FleetFigures
    health: HealthHistory
    answers: AnswerSums
    connections: ConnectionSamples
    versions: VersionSamples
    over_time: HealthOverTime
    events: FleetEvents
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


RESULT_BYTES = 4096
"""Of a recorded result on the average: what one device may keep is so much times its number of results."""


def build_fleet(
    config: RegistryConfig, clock: Callable[[], datetime], database: Database, director: Director, shares: ShareRefusals
) -> FleetServices:
    """Everything of the fleet; nothing of it runs yet."""
    log, waker = FleetLog(database), Waker()
    two_person = config.rollouts.two_person
    rule = SecondPerson(database, required=two_person)
    planner, holder = Planner(database, two_person=two_person), holder_in(config.data_dir)
    ticker = Ticker(database, planner, steady=time.monotonic, holder=holder)
    for changed in (Changed.FLEET, Changed.ROLLOUTS):  # after the ticker, so that it knows before it is woken
        database.listeners.add(changed, lambda _: waker.wake())
    expiry_s = config.presence.expiry_s
    budgets = IntakeBudgets(shares)
    most = part_of(config.retention.max_results, config.limits.share_of_caller)
    kept = KeptOfDevices(KeptBound(most, most * RESULT_BYTES))
    telemetry = Telemetry(database, expiry_s=expiry_s, kept=kept, budgets=budgets)
    limits = RetentionLimits(
        health_hours=config.retention.health_hours,
        event_hours=config.retention.events_hours,
        max_results=config.retention.max_results,
    )
    figures = FleetFigures(database)
    publication, bridge = Publication(database, director), None
    if config.mqtt.enabled:
        bridge = MqttBridge(config.mqtt, clock, telemetry, publication, probe=database.probe, budgets=budgets)
    return FleetServices(
        documents=DesiredDocuments(database, director),
        publication=publication,
        devices=Devices(database, rule),
        labels=Labels(database),
        deployments=Deployments(database, rule),
        coverage=Coverage(database),
        jobs=Jobs(database, timedelta(hours=limits.event_hours)),
        telemetry=telemetry,
        presence=PresenceTracker(database, expiry_s),
        figures=figures,
        health=HealthHistory(database),
        answers=AnswerSums(database, telemetry.totals, limits),
        connections=ConnectionSamples(database, figures),
        versions=VersionSamples(database, figures),
        over_time=HealthOverTime(database),
        events=FleetEvents(database),
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


KEYS = "keys"
"""The folder of private keys in the data folder."""
COLLECT_EVERY_S = 3600.0
"""Seconds between two collections of blobs that nobody needs."""
Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Services:
    """Everything a route or a background part may use."""

    config: RegistryConfig
    clock: Clock
    """Now, in UTC."""
    started_at: datetime
    opened: ExitStack
    """What is to be closed at the end: the database, the blobs, the data folder's lock."""
    database: Database
    blobs: BlobStore
    checks: BlobChecks
    shares: ShareRefusals
    places: list[Connections]
    """Of the server, when it runs."""
    access: Access
    tokens: Tokens
    is_new: bool
    """No administrator's token was there before this start."""
    sessions: ConsoleSessions
    rule: SecondPerson
    uploads: Uploads
    models: Models
    versions: Versions
    aliases: Aliases
    conversions: Conversions
    parity: ParityTable
    yanking: Yanking
    datasets: Datasets
    evaluations: Evaluations
    garbage: Garbage
    disk_use: DiskUse
    trust: Trust
    trust_changes: TrustChanges
    fleet: FleetServices
    readiness: Readiness

    def close(self) -> None:
        """After the last request: close the database, let another process have the folder."""
        self.readiness.close()
        self.opened.close()


def utc_now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.fromtimestamp(time.time(), tz=timezone.utc)


def build_services(config: RegistryConfig, clock: Clock = utc_now) -> Services:
    """Make the data folder, bring the database up to date, make sure an administrator's token exists.

    On a disk or a database that takes no writes it starts all the same, if it has been there before: what only reads
    works, and the log and `/readyz` say the rest.

    Raises:
        RegistryError: it cannot start so; a `StartError` has a code for each reason.
    """
    with ExitStack() as undo:
        database, blobs = _open(config, undo)
        with suppress(TemporaryError):  # else the presence job does it as soon as the database takes writes
            rebuild_index(database, clock(), IndexProgress())
        services = _services(config, clock, database, blobs)
        services.opened.enter_context(undo.pop_all())
    for probe in (database.probe, services.blobs.probe, services.checks.refresh):
        with suppress(TemporaryError):
            probe()  # says now what does not work
    return services


def _services(config: RegistryConfig, clock: Clock, database: Database, blobs: BlobStore) -> Services:
    limits = config.limits
    verified_every = timedelta(seconds=limits.verify_every_s)
    checks = BlobChecks(database, blobs, every=verified_every, rate=limits.verify_bytes_per_s)
    upload_limits = UploadLimits(
        blob_bytes=limits.blob_bytes,
        open_sessions=limits.open_uploads,
        writers=limits.concurrent_uploads,
        ttl=timedelta(seconds=limits.upload_ttl_s),
        disk_reserve=limits.disk_reserve_bytes,
        share=limits.share_of_caller,
    )
    access, shares = Access(database), ShareRefusals()
    tokens = Tokens(database)
    rule = SecondPerson(database, required=config.rollouts.two_person)
    trust = Trust(database, _keys_folder(config), clock)
    with suppress(TemporaryError):  # else the job makes it good; publishing is refused until then
        trust.start()
    made = tokens.ensure_admin(given_admin_token(config), config.data_dir / ADMIN_TOKEN_FILE, clock())
    return Services(
        config=config,
        clock=clock,
        started_at=clock(),
        opened=ExitStack(),
        database=database,
        blobs=blobs,
        checks=checks,
        shares=shares,
        places=[],
        access=access,
        tokens=tokens,
        is_new=made,
        sessions=ConsoleSessions(database),
        uploads=Uploads(database, blobs, upload_limits, checks, shares),
        models=Models(database, trust.image),
        versions=Versions(database, blobs, trust.image),
        aliases=Aliases(database),
        conversions=Conversions(database, blobs, limits.blob_bytes, trust.image),
        parity=ParityTable(database),
        yanking=Yanking(database, trust.image, rule),
        rule=rule,
        datasets=Datasets(database, blobs),
        evaluations=Evaluations(database),
        garbage=Garbage(database, blobs, timedelta(seconds=limits.blob_grace_s)),
        disk_use=DiskUse(
            database,
            blobs,
            grace=timedelta(seconds=limits.blob_grace_s),
            every_s=COLLECT_EVERY_S,
            reserve=limits.disk_reserve_bytes,
        ),
        trust=trust,
        trust_changes=TrustChanges(database, trust),
        fleet=build_fleet(config, clock, database, trust.director, shares),
        readiness=Readiness({"database": database.probe, "blobs": blobs.probe}),
    )


def _open(config: RegistryConfig, undo: ExitStack) -> tuple[Database, BlobStore]:
    """The data folder, locked, the database and the blobs; `undo` closes them."""
    folder = config.data_dir
    try:
        make_private(folder)
    except OSError as error:
        raise StartError("data_folder", f"The data folder {folder} cannot be made: {error.strerror}.") from error
    undo.callback(os.close, lock_folder(folder, "data_dir"))
    database = open_database(config.effective_database_url)
    undo.callback(database.close)
    return database, undo.enter_context(closing(open_blobs(config.effective_blobs_url)))


def restore_registry(config: RegistryConfig, clock: Clock = utc_now) -> Restored:
    """What follows when the data were put back from a backup; for a folder in which no registry works.

    Raises:
        RegistryError: the data cannot be used, a registry works in the folder, or a setting is not safe.
    """
    with ExitStack() as undo:
        database, blobs = _open(config, undo)
        file = config.data_dir / ADMIN_TOKEN_FILE
        trust = Trust(database, _keys_folder(config), clock)
        return restored(database, blobs, Tokens(database), trust, clock(), given=given_admin_token(config), file=file)


def _keys_folder(config: RegistryConfig) -> Path:
    """Where the private keys are."""
    return config.trust.keys or config.data_dir / KEYS


def given_admin_token(config: RegistryConfig) -> str | None:
    """The administrator's token that the settings name; None when they name none. Raises StartError."""
    if config.admin_token is not None:
        return config.admin_token.get_secret_value()
    if config.admin_token_file is None:
        return None
    given = read_token(config.admin_token_file)
    if given is None:
        raise StartError("token_file", f"There is no token in {config.admin_token_file}, which admin_token_file names.")
    return given
