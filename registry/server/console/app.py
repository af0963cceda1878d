"""The console as an application of its own below `/console`: its pages, and what all its answers have in common.

To add a page: a module in `pages/` with its routes and its `SECTION`, its template, one line in `SECTIONS`, and its
rows in `operations.py`; docs/console.md says it in full.

Errors are pages here, and a visitor who has to sign in gets the form in place of the page. Everything comes from this
address, scripts and styles are files: the content security policy forbids the rest, so that what a device, a manifest
or a label says cannot run in a browser.
"""

from __future__ import annotations

import logging
import secrets
from http import HTTPStatus

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request as AnyRequest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.contracts.api.answers import STATUS_OF_CODE
from registry.contracts.codes import ProblemCode
from registry.contracts.paths import CONSOLE
from registry.errors import RegistryError
from registry.server.composition import Services
from registry.server.console import live, signing_in
from registry.server.console.assets import Assets
from registry.server.console.pages import (
    approvals,
    datasets,
    deploying,
    device,
    device_actions,
    events,
    fleet,
    groups,
    health,
    job_requests,
    models,
    rollouts,
    settings,
    try_it,
    webhooks,
    work,
)
from registry.server.console.rendering import Pages, page
from registry.server.console.sections import NavEntry
from registry.server.console.trials import Trials
from registry.server.console.visitors import PART, cookie_of, require_same_origin
from registry.server.middleware.limits import OtherBodies
from registry.server.middleware.problems import faults_of

log = logging.getLogger(__name__)
SECTIONS: tuple[NavEntry, ...] = (
    *(fleet.SECTION, models.SECTION, rollouts.SECTION, health.SECTION, try_it.SECTION, events.SECTION),
    *(approvals.SECTION, work.SECTION, settings.SECTION),
)
"""In the order of the navigation."""
ROUTERS: tuple[APIRouter, ...] = (
    *(device_actions.router, deploying.router, job_requests.router, device.router),
    *(groups.router, datasets.router, webhooks.router),
)
"""Pages that no entry of the navigation leads to."""
_own = APIRouter()
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of every answer."""


def create_console(services: Services) -> FastAPI:
    """The application that is mounted at `/console`."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.services = services
    app.state.pages = Pages(SECTIONS)
    app.state.live = live.NewsStreams(services.database)
    app.state.trials = Trials()
    app.state.attempts = signing_in.SignInAttempts()
    for router in routers():
        app.include_router(router)
    _install_error_pages(app)
    app.add_middleware(_Guard)
    return app


def routers() -> tuple[APIRouter, ...]:
    """All pages."""
    sections = (router for section in SECTIONS for router in (section.router, *section.groups))
    return (_own, signing_in.router, live.router, *ROUTERS, *sections)


def bodies() -> tuple[OtherBodies, ...]:
    """How long the console's forms may be; the first that fits counts."""
    return OtherBodies(CONSOLE + try_it.PATH, try_it.most_bytes), OtherBodies(CONSOLE + "/", signing_in.most_bytes)


@_own.get("/")
def _home() -> Response:
    return RedirectResponse(CONSOLE + signing_in.HOME, 307)


@_own.get("/static/{tag}/{name:path}")
def _asset(request: Request, tag: str, name: str) -> Response:
    assets: Assets = request.app.state.pages.assets
    return assets.answer(request, tag, name)


def _install_error_pages(app: FastAPI) -> None:
    @app.exception_handler(RegistryError)
    async def refused(request: Request, error: RegistryError) -> Response:
        if error.code == ProblemCode.UNAUTHORIZED:
            return _sign_in_instead(request, error)
        return error_page(request, STATUS_OF_CODE[error.code], error.message, error.errors, error.code)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return error_page(request, 422, "The address or the form of this page is not right.", faults_of(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        texts = {404: "There is no such page.", 405: "This page does not take such a request."}
        return error_page(request, error.status_code, texts.get(error.status_code, str(error.detail)))


def error_page(request: Request, status: int, message: str, errors: tuple[str, ...] = (), code: str = "") -> Response:
    """What went wrong, as a page."""
    title = HTTPStatus(status).phrase
    known = {row.value: row for row in ProblemCode}.get(code)
    action = known.action if known is not None and status != 404 else ""
    return page(request, "error.html", status=status, title=title, message=message, errors=errors, action=action)


def _sign_in_instead(request: Request, error: RegistryError) -> Response:
    """The form in place of the page. A link from another site brings no cookie (SameSite=Strict), so the page is then
    asked for once more, by itself: that request brings it."""
    looks = request.method == "GET" and PART not in request.query_params
    elsewhere = request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
    if looks and elsewhere and cookie_of(request) is None and "again" not in request.query_params:
        again = request.url.include_query_params(again="1")
        return page(request, "again.html", target=f"{again.path}?{again.query}")
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    wrong = "" if looks and cookie_of(request) is None else error.message
    return signing_in.form(request, target=target if request.method == "GET" else "", wrong=wrong, status=401)


class _Guard:
    """ASGI middleware: refuses changes that no page asked for, adds the headers, makes pages of unexpected errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        request = AnyRequest(scope, receive)
        try:
            require_same_origin(request)
            await self._app(scope, receive, watch)
        except RegistryError as error:
            if started:
                raise
            answer = error_page(request, STATUS_OF_CODE[error.code], error.message, error.errors, error.code)
            await answer(scope, receive, watch)
        except Exception:
            if started:
                raise
            incident = secrets.token_hex(8)
            log.exception("incident %s: %s %s", incident, scope["method"], scope["path"])
            message = f"Something broke inside the registry; its log tells more under incident {incident}."
            await error_page(request, 500, message, (), "internal")(scope, receive, watch)
