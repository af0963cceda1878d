"""The composition root: the one place where the agent's concrete parts meet. Starts them in order, stops them in turn.

Start: lock, journal, cache, data path, reconciler (which brings back what served, asking nobody), scheduler.
Stop: scheduler, reconciler, data path (answers what is in flight, says offline), workers.
systemd is told that the agent is ready, alive, or stopping.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import queue
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from agent.adapters.deployment_steps import DeploymentSteps
from agent.adapters.disk.artifact_cache import ArtifactCache
from agent.adapters.disk.damage import Damage
from agent.adapters.disk.journal import SqliteJournal
from agent.adapters.disk.outbox import Outbox
from agent.adapters.facts import hardware, process_stats
from agent.adapters.local_policy import HostLocalPolicy, Leases, Metered
from agent.adapters.network.mqtt import SessionSettings
from agent.adapters.network.registry_client import RegistryClient
from agent.adapters.signatures import trusted
from agent.app.health import HealthReporter
from agent.app.home_assistant import Discovery
from agent.app.inspector import Inspector
from agent.app.ports import DataPathPort
from agent.app.status import locked, write_status
from agent.config.settings import AgentConfig, secret_reader
from agent.core.events import Tick
from agent.dataplane.loop import DataPlane, DataPlaneSettings
from agent.errors import AgentError
from agent.jobs.executor import JobExecutor
from agent.jobs.handlers import RealJobs
from agent.reconciler.context import Context, EventPublisher, TaskDone
from agent.reconciler.desired import DesiredState
from agent.reconciler.exchange import Exchange
from agent.reconciler.freshness import FreshnessLook
from agent.reconciler.loop import QUEUE_LIMIT, Reconciler
from agent.reconciler.ports import Clock
from registry.contracts.device.messages import Health, Presence, Reported
from registry.contracts.fit.platforms import Platform
from registry.contracts.topics import Topics
from registry.systemd import notify, watchdog_interval_s

if TYPE_CHECKING:
    from agent.adapters.trust.metadata import TrustedMetadata

log = logging.getLogger(__name__)
STOP_CONTROL_S, STOP_DRAIN_S, STOP_WORKER_S = 3.0, 10.0, 3.0
"""A stop takes 20 s at most: the control thread, what is in flight, workers with nothing left to do."""
REVIVE_S = 3.0
"""What served before gets so long to load before the broker is told that this device is there."""
HUNG_AFTER_S = 90.0
"""A control thread that has not looked for so long hangs: the watchdog is not told that all is well."""
POOLS = {"pull": 2, "load": 2, "uplink": 1, "job": 1}
"""Threads for downloads, for workers, for the registry and for one-time work: made when they are first needed."""
FIRST_POLL_S = 1.0
SWEEP_INTERVAL_S, FIRST_SWEEP_S = 3600.0, 60.0


def utc_now() -> datetime:
    """The host's clock."""
    return datetime.fromtimestamp(time.time(), timezone.utc)


class Agent:
    """`run` blocks until SIGTERM or SIGINT.

    SIGHUP has it take credentials that were replaced on the disk at once; of a terminal that hung up it is the end.
    """

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._session_id = uuid4().hex
        self._topics = Topics(config.mqtt.prefix)
        self._clock = Clock(now=utc_now, monotonic=time.monotonic, chance=random.random)
        self._stopping = self._renewing = False
        self._signalled, self._tell = socket.socketpair()

    def run(self) -> None:
        """Raises AgentError when it cannot start; what was started by then is stopped again."""
        self._listen_for_signals()
        with locked(self._config.data_dir):
            self._build()
            try:
                self._start()
                self._wait()
            finally:
                self._end()

    def _listen_for_signals(self) -> None:
        """Handlers only set a flag: they may interrupt each other, and whatever lock the main thread has just taken."""
        for end in (self._signalled, self._tell):
            end.setblocking(False)
        signal.set_wakeup_fd(self._tell.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup means what it says
            at_terminal = sys.stdin is not None and sys.stdin.isatty()  # it is the terminal that has hung up
            signal.signal(signal.SIGHUP, self._stop if at_terminal else self._renew)

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _renew(self, *_: object) -> None:
        self._renewing = True

    def _build(self) -> None:
        config, data_dir = self._config, self._config.data_dir
        limits, self._damage = config.limits, Damage()
        self._journal = SqliteJournal(data_dir, self._damage)
        self._journal.open()
        cache = ArtifactCache(
            data_dir / "cache", limit=limits.cache_bytes, reserve=limits.disk_reserve, damage=self._damage
        )
        try:
            cache.open()
        except AgentError as error:
            log.error("nothing new can be installed: %s", error)  # noqa: TRY400 - expected, the text says all
        self._events: queue.Queue[Any] = queue.Queue(QUEUE_LIMIT)
        self._outbox = Outbox(
            data_dir / "outbox.db", rows=limits.outbox_rows, size=limits.outbox_bytes, damage=self._damage
        )
        self._plane = DataPlane(
            self._plane_settings(), mqtt_settings(config, self._death()), self._outbox, self._events
        )
        prefix = config.mqtt.home_assistant
        self._discovery = (
            Discovery(prefix, self._topics, config.device, hardware.agent_version(), self._retain) if prefix else None
        )
        self._registry = registry_client(config)
        self._metadata = trusted_metadata(config, self._registry, self._damage)
        self._pools = {name: ThreadPoolExecutor(count, thread_name_prefix=name) for name, count in POOLS.items()}
        self._context = self._make_context(cache)
        self._reconciler = self._make_reconciler()
        self._inspector = Inspector(
            cache,
            lambda: list(self._context.records.values()),
            lambda choice: self._put(TaskDone(lambda: self._reconciler.damaged(choice))),
            bytes_per_s=limits.verify_bytes_per_s,
            every_s=limits.verify_interval_s,
        )
        self._ends = contextlib.ExitStack()
        """Stops what ticks and what is asked for figures."""

    def _make_context(self, cache: ArtifactCache) -> Context:
        config = self._config
        data_path = DataPathPort(self._plane, config.device, config.limits.max_payload)
        steps = DeploymentSteps(
            config,
            cache,
            self._registry,
            lambda: probe(config),
            probe_again=lambda: probe(config, fresh=True),
            tell_facts=lambda facts: self._put(TaskDone(lambda: self._reconciler.host.take(facts))),
            damage=self._damage,
            metadata=self._metadata,
        )
        self._job_work = RealJobs(config, cache, self._registry, steps.facts, self._metadata)
        return Context(
            journal=self._journal,
            steps=steps,
            data_path=data_path,
            clock=self._clock,
            desired=DesiredState(config.device, self._journal, self._metadata),
            publisher=EventPublisher(config.device, self._topics, data_path, self._journal, self._clock),
            network=self._pools["pull"],
            loads=self._pools["load"],
            put=self._put,
            drain_timeout_s=config.worker.drain_timeout_s,
            damage=self._damage.take,
            boot=process_stats.kernel_text(process_stats.BOOT),
            host=HostLocalPolicy(
                config.policy.host_policy(),
                Leases(config.data_dir / "leases"),
                Metered(config.policy.metered),
                self._clock.now,
            ),
        )

    def _make_reconciler(self) -> Reconciler:
        config = self._config
        self._exchange = (
            None if self._registry is None else Exchange(self._context, self._registry, self._pools["uplink"])
        )
        self._newest: Reported | None = None
        self._health: Health | None = None
        self._make_health = HealthReporter(
            device=config.device,
            session_id=self._session_id,
            cores=config.cores,
            data_dir=config.data_dir,
            snapshot=self._plane.snapshot,
            now=utc_now,
            damaged=self._damage.counts,
            certificates=certificate_files(config),
        )
        return Reconciler(
            device=config.device,
            session_id=self._session_id,
            topics=self._topics,
            context=self._context,
            exchange=self._exchange,
            events=self._events,
            on_report=self._reported,
            make_health=self._look_at_health,
            jobs=JobExecutor(self._context, self._job_work, self._pools["job"], config.data_dir / "jobs"),
            heard_every_s=min(config.health_interval_s, 7 * 86400.0),
            freshness=FreshnessLook(self._context, self._metadata, self._pools["uplink"]),
        )

    def _start(self) -> None:
        self._reconciler.start()
        # The broker delivers again what was under way at a kill: better a moment later than to "not ready".
        self._reconciler.revived.wait(REVIVE_S)
        self._plane.start()
        self._start_ticks()
        self._inspector.start()
        if self._config.prometheus:
            from agent.app.metrics import MetricsServer  # noqa: PLC0415 - only where it is wanted

            metrics = MetricsServer(
                self._config.prometheus,
                self._plane.snapshot,
                self._damage.counts,
                self._reconciler.restarts,
                certificate_files(self._config),
            )
            metrics.start()
            self._ends.callback(metrics.stop)
        notify("READY=1")
        log.info("agent %s runs, data in %s", self._config.device, self._config.data_dir)

    def _start_ticks(self) -> None:
        """What is done periodically: a `Tick` in the control queue; the work is done by who reads it. Periods run on
        the monotonic clock: setting the host's clock neither stops nor repeats them."""
        from registry.periodic import PeriodicScheduler  # noqa: PLC0415 - 0.1 s to import: while the workers load

        poll_s, health_s = self._config.registry.poll_interval_s, self._config.health_interval_s
        periods = {
            "poll": (poll_s, min(poll_s, FIRST_POLL_S)),
            "health": (health_s, min(health_s, 5.0)),
            "sweep": (SWEEP_INTERVAL_S, FIRST_SWEEP_S),
        }
        scheduler = PeriodicScheduler(threads=1)
        for what, (interval, first) in periods.items():
            scheduler.every(interval, self._put, Tick(what), first_s=first, name=what)
        scheduler.start()
        self._ends.callback(scheduler.shutdown, wait=True)

    def _wait(self) -> None:
        """Until a signal; tells the watchdog meanwhile that the threads live."""
        interval = watchdog_interval_s()
        while not self._stopping:
            if select.select((self._signalled,), (), (), interval)[0]:
                self._signalled.recv(4096)
            if self._renewing:
                self._renewing = False
                log.info("SIGHUP: credentials are looked at again; other settings are taken at a start")
                self._plane.renew_credentials()
            if self._lives():
                notify("WATCHDOG=1")

    def _lives(self) -> bool:
        if time.monotonic() - self._reconciler.looked_at > HUNG_AFTER_S:
            log.error("the control thread hangs")
            return False
        try:
            self._plane.snapshot()
        except concurrent.futures.TimeoutError:  # Before Python 3.11 it is not the built-in one.
            log.error("the data thread hangs")  # noqa: TRY400 - there is nothing more to say
            return False
        return True

    def _end(self) -> None:
        """Each part within its own deadline; a part that never started has nothing to do."""
        notify("STOPPING=1")
        self._inspector.stop()
        self._ends.close()
        workers = self._reconciler.stop(STOP_CONTROL_S)
        if self._registry is not None:
            self._registry.close()
        self._plane.stop(STOP_DRAIN_S)
        with ThreadPoolExecutor(8, thread_name_prefix="close") as closing:
            for worker in workers:
                closing.submit(worker.close, STOP_WORKER_S)
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        self._outbox.close()
        self._journal.close()

    def _put(self, event: Any) -> None:
        self._reconciler.put(event)

    def _reported(self, reported: Reported) -> None:
        self._plane.take_reports(reported.models)
        if self._discovery is not None:
            self._discovery.models(reported.models)
        self._keep_status(reported)

    def _retain(self, topic: str, payload: bytes) -> None:
        self._plane.publish(topic, payload, retain=True)

    def _look_at_health(self, restarts: Mapping[str, int]) -> Health:
        """For the report, and for `agent status`."""
        self._health = self._make_health(restarts)
        if self._newest is not None:
            self._keep_status(self._newest)
        return self._health

    def _keep_status(self, reported: Reported) -> None:
        self._newest = reported
        try:
            context = self._context
            write_status(
                self._config.data_dir,
                reported,
                connected=context.publisher.connected,
                at=utc_now(),
                slots=list(context.records.values()),
                health=self._health,
                registry_answered_at=None if self._exchange is None else self._exchange.answered_at,
            )
        except AgentError as error:
            log.warning("the status file cannot be written: %s", error)

    def _plane_settings(self) -> DataPlaneSettings:
        config = self._config
        birth = Presence(
            device=config.device,
            online=True,
            session_id=self._session_id,
            agent_version=hardware.agent_version(),
            at=utc_now(),
        )
        return DataPlaneSettings(
            device=config.device,
            topics=self._topics,
            agent_version=birth.agent_version,
            birth=birth.canonical(),
            death=self._death(),
            pools=tuple((pool, model) for pool, models in config.mqtt.pools.items() for model in models),
        )

    def _death(self) -> bytes:
        return Presence(device=self._config.device, online=False, session_id=self._session_id).canonical()


def certificate_files(config: AgentConfig) -> dict[str, Path]:
    """PEM files whose certificates end one day, by their use."""
    mqtt = config.mqtt
    files = {
        "broker_authority": mqtt.ca_file if mqtt.tls else None,
        "broker_client": mqtt.cert_file if mqtt.tls else None,
        "registry_authority": config.registry.ca_file,
    }
    return {name: file for name, file in files.items() if file is not None}


def probe(config: AgentConfig, *, fresh: bool = False) -> Platform:
    """What this host is."""
    return hardware.probe_host(
        python_of=config.worker.python,
        cores=config.cores,
        data_dir=config.data_dir,
        now=utc_now(),
        fresh=fresh,
        entry_points=trusted(config.entry_points),
        max_request_bytes=config.limits.max_payload,
    )


def registry_client(config: AgentConfig) -> RegistryClient | None:
    """None when no registry is configured."""
    settings = config.registry
    if settings.url is None:
        return None
    return RegistryClient(
        settings.url,
        config.device,
        token=secret_reader(settings.token, settings.token_file),
        ca_file=str(settings.ca_file) if settings.ca_file else None,
        timeout_s=settings.timeout_s,
    )


def trusted_metadata(config: AgentConfig, registry: RegistryClient | None, damage: Damage) -> TrustedMetadata | None:
    """None: this host checks no signatures.

    Raises:
        PermanentError: bad_config, its roots cannot be read: nothing could be verified.
        TransientError: the disk refuses.
    """
    if config.trust.root is None:
        return None
    from agent.adapters.trust.opening import open_metadata  # noqa: PLC0415 - python-tuf takes 0.2 s to import

    fetch = registry.signed_metadata if registry is not None else None
    return open_metadata(config.device, config.trust.root, config.data_dir / "trust", fetch, damage=damage, now=utc_now)


def mqtt_settings(config: AgentConfig, will: bytes) -> SessionSettings:
    """The session's settings. What they name is read when it connects."""
    presence = Topics(config.mqtt.prefix).device(config.device, "presence")
    return SessionSettings(config.mqtt, config.client_id, presence, will)
