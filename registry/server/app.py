"""The HTTP application: its routes, what wraps them, what runs beside them, and metrics read when somebody asks.

To add routes: a router in `ROUTERS`. To run something as long as the server: an async context manager
that takes `Services`, in `BACKGROUND`; they are entered in order and left in reverse.
While the database cannot be read, what is counted in it is left out of the metrics.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from fastapi import APIRouter, FastAPI
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from starlette.concurrency import run_in_threadpool

from registry.config import Limits
from registry.contracts.rollout.states import ActionState, RolloutState
from registry.db.engine import Database
from registry.db.rollout_rows import ActionRow, RolloutRow
from registry.errors import TemporaryError
from registry.server.composition import Services, bridging, rolling
from registry.server.metrics import CountRequests, figure
from registry.server.middleware.limits import BodyLimits
from registry.server.middleware.problems import RESPONSES, UnexpectedErrors, install_handlers
from registry.server.middleware.request_ids import RequestIds
from registry.server.mqtt.bridge import MqttBridge
from registry.server.routes import blobs, catalogue, devices, meta, rollouts, stream
from registry.server.scheduler import attending, scheduling
from registry.server.watchdog import watched
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


API_VERSION = "1"
ROUTERS: tuple[APIRouter, ...] = (
    *(catalogue.models, catalogue.versions, catalogue.aliases, blobs.blobs, blobs.uploads, meta.tokens, meta.meta),
    *(devices.desired, devices.devices, devices.deployments, catalogue.choice, devices.jobs, catalogue.evaluations),
    *(devices.telemetry, devices.results, rollouts.groups, rollouts.rollouts, stream.router, rollouts.webhooks),
)

Background = Callable[[Services], AbstractAsyncContextManager[None]]
BACKGROUND: tuple[Background, ...] = (
    lambda s: attending(s.fleet.presence, s.clock),
    lambda s: rolling(s.fleet.waker, s.fleet.ticker, s.clock),
    lambda services: bridging(services.fleet),
    scheduling,
)


def create_app(services: Services) -> FastAPI:
    """The application that serves these services."""
    app = _application(services.config.limits)
    app.state.services = services
    return app


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document, from the code alone: no database, no settings."""
    return _application(Limits()).openapi()


def _application(limits: Limits) -> FastAPI:
    app = FastAPI(
        title="Modelfleet registry",
        version=API_VERSION,
        summary="Models, versions, devices, desired state.",
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat whatever host the request names
        lifespan=_lifespan,
        responses=RESPONSES,
    )
    for router in ROUTERS:
        app.include_router(router)
    install_handlers(app)
    app.add_middleware(BodyLimits, limits=limits)
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(CountRequests)
    app.add_middleware(RequestIds)  # the outermost
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(watched())
        stack.push_async_callback(run_in_threadpool, _save_last_used, services)
        for part in BACKGROUND:
            await stack.enter_async_context(part(services))
        metrics = FleetMetrics(services)
        REGISTRY.register(metrics)
        stack.callback(REGISTRY.unregister, metrics)
        yield


def _save_last_used(services: Services) -> None:
    with suppress(TemporaryError):
        services.access.save_last_used()
