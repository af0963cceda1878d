"""Who is at the console: the session that a cookie names, or a reader without one where `access.open_reading` is on.

The cookie counts only here; the API takes bearer tokens alone. A request that changes something must come from a page
of this console: `Sec-Fetch-Site` says so, and where a browser does not send it, `Origin`. On HTTPS the cookie's name
has the prefix `__Host-`: it is bound to this host and sent only over TLS. A proxy that ends TLS says
so if it is one of `access.proxies`; of another the registry knows it from what the browser says of its own page, in
`Origin`. A cookie without the prefix, which a page of a
neighbouring host could have set, counts only where nobody signs in over HTTPS: on loopback, or with `allow_http`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from registry.config import is_loopback
from registry.contracts.api.answers import Scope
from registry.contracts.paths import CONSOLE
from registry.errors import ForbiddenError, UnauthorizedError
from registry.server.composition import Services
from registry.server.middleware.auth import Needs, address_of, require_right, services_of
from registry.services.access.principals import ANONYMOUS, Actor, Principal, act_as
from registry.services.console_sessions import MOST, ConsoleSession

COOKIE = "modelfleet_console"
SECURE_COOKIE = "__Host-" + COOKIE
SAFE = frozenset({"GET", "HEAD"})
PART = "part"
"""The query parameter with which a page asks for one part of itself again, by itself: nobody used it."""
LIVE = "/live"
"""The stream that a page opens again by itself."""
_NEEDS_HTTPS = (
    "Signing in from another host needs HTTPS, so that nobody on the way reads the token. Put a proxy with TLS before "
    "the registry (docs/console.md), or open a tunnel: ssh -L 8470:127.0.0.1:8470 HOST, then http://127.0.0.1:8470/. "
    "On a network where this does not matter: console.allow_http = true."
)


@dataclass(frozen=True)
class Visitor:
    """Who looks at a page."""

    principal: Principal
    session: ConsoleSession | None
    """None: a reader who did not sign in."""

    @property
    def name(self) -> str:
        """For the record of what was done."""
        return self.principal.name

    def may(self, scope: Scope) -> bool:
        """Is the scope granted?"""
        return self.principal.may(scope)


def require_same_origin(request: Request) -> None:
    """Raises ForbiddenError for a change that no page of this console asks for."""
    if request.method in SAFE:
        return
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        allowed = site == "same-origin"
    else:
        origin = urlsplit(request.headers.get("origin", ""))
        allowed = bool(origin.netloc) and origin.netloc == request.headers.get("host")
    if not allowed:
        raise ForbiddenError("This request does not come from a page of this console, so nothing was changed.")


def is_https(request: Request) -> bool:
    """Does the browser speak TLS with whatever is before this registry? As a trusted proxy, or its own page, says."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")


def own_address(request: Request) -> str:
    """The registry's address as the browser of a form that was sent uses it."""
    return f"{'https' if is_https(request) else 'http'}://{request.headers.get('host', '')}"


def require_private_line(request: Request, services: Services) -> None:
    """Raises ForbiddenError where a token could be read on the way."""
    if not (is_https(request) or _http_will_do(request, services)):
        raise ForbiddenError(_NEEDS_HTTPS)


def _http_will_do(request: Request, services: Services) -> bool:
    return services.config.console.allow_http or is_loopback(_host_and_port(request)[0])


def _host_and_port(request: Request) -> tuple[str, str]:
    """As the browser names this registry. Empty: not at all, or not so that it can be read."""
    try:
        parts = urlsplit("//" + request.headers.get("host", ""))
        return parts.hostname or "", str(parts.port or "")
    except ValueError:
        return "", ""


def plain_cookie(request: Request) -> str:
    """The cookie's name over plain HTTP. It has the port, as browsers give a cookie to every port of a host: two
    registries on one host would end each other's sessions."""
    port = _host_and_port(request)[1]
    return f"{COOKIE}_{port}" if port else COOKIE


def cookie_of(request: Request) -> str | None:
    """The session's secret, as the browser sends it."""
    secure = request.cookies.get(SECURE_COOKIE)
    if secure or not _http_will_do(request, services_of(request)):
        return secure
    return request.cookies.get(plain_cookie(request))


def set_cookie(request: Request, response: Response, secret: str) -> None:
    """The browser keeps the secret until it is closed, MOST at the longest."""
    secure = is_https(request)
    response.set_cookie(
        SECURE_COOKIE if secure else plain_cookie(request),
        secret,
        max_age=int(MOST.total_seconds()),
        path="/" if secure else CONSOLE,
        secure=secure,
        httponly=True,
        samesite="strict",
    )


def drop_cookie(request: Request, response: Response) -> None:
    """The browser forgets it."""
    response.delete_cookie(SECURE_COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    response.delete_cookie(plain_cookie(request), path=CONSOLE, httponly=True, samesite="strict")


async def visitor_of(request: Request) -> Visitor:
    """Who asks; found once a request.

    Raises:
        UnauthorizedError: nobody is signed in, and reading is not open.
    """
    known = getattr(request.state, "visitor", None)
    if isinstance(known, Visitor):
        act_as(Actor(known.principal, address_of(request)))
        return known
    services = services_of(request)
    secret = cookie_of(request)
    visitor = None
    if secret is not None:
        used = PART not in request.query_params and request.url.path != CONSOLE + LIVE
        try:
            principal, session = await run_in_threadpool(services.sessions.find, secret, services.clock(), used=used)
            visitor = Visitor(principal, session)
        except UnauthorizedError:
            if not reads_without_token(request, services):
                raise
    if visitor is None:
        if not reads_without_token(request, services):
            raise UnauthorizedError("Sign in to see this page.")
        visitor = Visitor(ANONYMOUS, None)
    request.state.visitor = visitor
    act_as(Actor(visitor.principal, address_of(request)))
    return visitor


def reads_without_token(request: Request, services: Services) -> bool:
    """As the API: where `access.open_reading` is on, reading needs no token."""
    return request.method in SAFE and services.config.access.open_reading


def _requiring(scope: Scope, *, everywhere: bool = False) -> Callable[[Request], Awaitable[Visitor]]:
    async def require(request: Request) -> Visitor:
        visitor = await visitor_of(request)
        if visitor.session is None and not visitor.may(scope):
            raise UnauthorizedError("Sign in to do this: without signing in you may only read.")
        require_right(request, visitor.principal, scope, everywhere=everywhere)
        return visitor

    require.needs = Needs(scope, everywhere)  # type: ignore[attr-defined]
    return require


Reading = Annotated[Visitor, Depends(_requiring(Scope.READ))]
Publishing = Annotated[Visitor, Depends(_requiring(Scope.PUBLISH))]
Deploying = Annotated[Visitor, Depends(_requiring(Scope.DEPLOY))]
FleetDeploying = Annotated[Visitor, Depends(_requiring(Scope.DEPLOY, everywhere=True))]
Approving = Annotated[Visitor, Depends(_requiring(Scope.APPROVE))]
Administering = Annotated[Visitor, Depends(_requiring(Scope.ADMIN))]
"""What a page's function takes to say who may open it, as the API's `Reader`, `Deployer` and so on."""
