"""The HTTP application: its routes, what wraps them, and what runs beside them.

To add routes: a router in `ROUTERS`. To run something as long as the server: an async context manager
that takes `Services`, in `BACKGROUND`; they are entered in order and left in reverse.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool

from registry.server.composition import Services
from registry.server.problems import RESPONSES, UnexpectedErrors, install_handlers
from registry.server.routes import meta, tokens

API_VERSION = "1"
ROUTERS: tuple[APIRouter, ...] = (meta.router, tokens.router)

Background = Callable[[Services], AbstractAsyncContextManager[None]]
BACKGROUND: tuple[Background, ...] = ()


def create_app(services: Services) -> FastAPI:
    """The application that serves these services."""
    app = _application()
    app.state.services = services
    return app


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document, from the code alone: no database, no settings."""
    return _application().openapi()


def _application() -> FastAPI:
    app = FastAPI(
        title="Modelfleet registry",
        version=API_VERSION,
        summary="Models, versions, devices, desired state.",
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        responses=RESPONSES,
    )
    for router in ROUTERS:
        app.include_router(router)
    install_handlers(app)
    app.add_middleware(UnexpectedErrors)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    async with AsyncExitStack() as stack:
        stack.callback(services.database.close)
        stack.push_async_callback(run_in_threadpool, services.access.save_last_used)
        for part in BACKGROUND:
            await stack.enter_async_context(part(services))
        yield
