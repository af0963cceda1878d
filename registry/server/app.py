"""The HTTP application: its routes, what wraps them, and what runs beside them.

To add routes: a router in `ROUTERS`. To run something as long as the server: an async context manager
that takes `Services`, in `BACKGROUND`; they are entered in order and left in reverse.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute
from prometheus_client import REGISTRY
from starlette.concurrency import run_in_threadpool

from registry import tracing
from registry.config import Limits
from registry.contracts.paths import CONSOLE
from registry.core.shares import Holdings, part_of
from registry.errors import TemporaryError
from registry.server.composition import Services, bridging, rolling
from registry.server.console.app import bodies, create_console
from registry.server.fleet_metrics import FleetMetrics
from registry.server.metrics import CountRequests
from registry.server.middleware.limits import BodyLimits, OtherBodies
from registry.server.middleware.problems import RESPONSES, UnexpectedErrors, install_handlers
from registry.server.middleware.request_ids import RequestIds
from registry.server.middleware.traced import Traced
from registry.server.middleware.turns import Turns
from registry.server.routes import blobs, catalogue, devices, meta, rollouts, stream, trust
from registry.server.scheduler import attending, scheduling
from registry.server.watchdog import watched

API_VERSION = "1"
ROUTERS: tuple[APIRouter, ...] = (
    *(catalogue.models, catalogue.versions, catalogue.aliases, blobs.blobs, blobs.uploads, meta.tokens, meta.meta),
    *(devices.desired, devices.devices, devices.fleet, devices.deployments, catalogue.choice, devices.jobs),
    *(catalogue.evaluations, devices.telemetry, devices.results, rollouts.groups, rollouts.rollouts),
    *(stream.router, rollouts.webhooks, trust.trust),
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
    config = services.config
    app = _application(config.limits, bodies() if config.console.enabled else ())
    app.state.services = services
    app.state.streams = Holdings(stream.MAX_CLIENTS, part_of(stream.MAX_CLIENTS, config.limits.share_of_caller))
    if config.console.enabled:
        app.get("/", include_in_schema=False)(_to_console)
        app.get(CONSOLE, include_in_schema=False)(_to_console)
        app.mount(CONSOLE, create_console(services))
    return app


def _to_console() -> Response:
    return RedirectResponse(CONSOLE + "/", 307)


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document, from the code alone: no database, no settings."""
    return _application(Limits()).openapi()


def operations() -> dict[str, APIRoute]:
    """Every operation of the API, as `GET /v1/models`, and the route that answers it."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    shown = [route for route in routes if route.include_in_schema]
    return {f"{method} {route.path}": route for route in shown for method in route.methods or ()}


def _application(limits: Limits, others: tuple[OtherBodies, ...] = ()) -> FastAPI:
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
    app.add_middleware(Turns)
    app.add_middleware(BodyLimits, limits=limits, others=others)
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(CountRequests)
    if tracing.is_on():
        app.add_middleware(Traced)
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
