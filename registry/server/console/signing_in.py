"""Signing in with a token or a one-time link, and signing out."""

from __future__ import annotations

import threading
import time
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from registry.contracts.api.answers import Scope
from registry.contracts.paths import CONSOLE
from registry.core.attempts import Attempts
from registry.errors import NotFoundError, RegistryError, UnauthorizedError
from registry.server.console.forms import FormDep
from registry.server.console.rendering import page
from registry.server.console.visitors import (
    Visitor,
    cookie_of,
    drop_cookie,
    reads_without_token,
    require_private_line,
    set_cookie,
    visitor_of,
)
from registry.server.middleware.auth import ServicesDep, address_of, services_of

router = APIRouter()
PATH = "/sign-in"
HOME = "/fleet"
MAX_BYTES = 16 << 10
"""Of the form, which anybody may send."""


class SignInAttempts:
    """Failures to sign in, of one application. Thread-safe."""

    def __init__(self) -> None:
        self._attempts, self._lock = Attempts(), threading.Lock()

    def wait_s(self, caller: str) -> float:
        """Seconds until this caller may try again."""
        with self._lock:
            return self._attempts.wait_s(caller, time.monotonic())

    def failed(self, caller: str) -> None:
        """This caller gave a wrong token or link."""
        with self._lock:
            self._attempts.failed(caller, time.monotonic())


def safe_next(target: str) -> str:
    """Where to go after signing in: a page of this console, or the first one."""
    parts = urlsplit(target)
    own = not parts.scheme and not parts.netloc and parts.path.startswith(CONSOLE + "/")
    clean = not any(character < " " or character == "\\" for character in target)
    return target if own and clean and not parts.path.startswith(CONSOLE + PATH) else CONSOLE + HOME


@router.get(PATH)
def show(
    request: Request,
    code: Annotated[str, Query(max_length=256)] = "",
    target: Annotated[str, Query(alias="next", max_length=2048)] = "",
) -> Response:
    """The form. A link with a code shows a button only, so that whatever looks at links in advance uses none up."""
    return form(request, target=target, code=code)


def form(request: Request, *, target: str = "", code: str = "", wrong: str = "", status: int = 200) -> Response:
    """The page with the form, also instead of a page that needs somebody to sign in."""
    services = services_of(request)
    refused = ""
    try:
        require_private_line(request, services)
    except RegistryError as error:
        # A page that is only looked at tells nothing of HTTPS; what a form would be refused for is said now.
        refused = error.message if "origin" in request.headers else ""
    return page(
        request,
        "sign-in.html",
        status=status,
        target=safe_next(target),
        code=code,
        wrong=wrong or refused,
        open_reading=reads_without_token(request, services),
    )


@router.post(PATH)
def sign_in(request: Request, services: ServicesDep, fields: FormDep) -> Response:
    """Open a session, and go where the visitor wanted to go."""
    require_private_line(request, services)
    attempts: SignInAttempts = request.app.state.attempts
    caller = address_of(request)
    target, code, token = fields.text("next"), fields.text("code"), fields.text("token")
    if wait := attempts.wait_s(caller):
        answer = form(request, target=target, wrong=f"Too many failed attempts. Try again in {wait:.0f} s.", status=429)
        answer.headers["Retry-After"] = f"{wait:.0f}"
        return answer
    now, browser = services.clock(), request.headers.get("user-agent", "")
    try:
        if code:
            secret = services.sessions.sign_in_by_link(code, now, browser, caller)
        else:
            secret = services.sessions.sign_in(token, now, browser, caller)
    except UnauthorizedError as error:
        attempts.failed(caller)
        return form(request, target=target, wrong=error.message, status=401)
    answer = RedirectResponse(safe_next(target), 303)
    set_cookie(request, answer, secret)
    return answer


@router.post("/sign-out")
def sign_out(request: Request, services: ServicesDep) -> Response:
    """End the session of this browser."""
    secret = cookie_of(request)
    if secret is not None:
        try:
            _, session = services.sessions.find(secret, services.clock(), used=False)
            services.sessions.end(session.id)
        except (UnauthorizedError, NotFoundError):
            pass  # it has ended already
    answer = RedirectResponse(CONSOLE + PATH, 303)
    drop_cookie(request, answer)
    return answer


async def most_bytes(request: Request) -> int:
    """Of a form: see `BodyLimits`. Somebody who is not signed in sends only the form of signing in."""
    limits = services_of(request).config.limits
    try:
        visitor: Visitor = await visitor_of(request)
    except UnauthorizedError:
        return MAX_BYTES if request.url.path == CONSOLE + PATH else 0
    if visitor.session is None or not visitor.may(Scope.READ):
        return MAX_BYTES if request.url.path == CONSOLE + PATH else 0
    return limits.json_bytes
