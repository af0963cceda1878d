"""Every error as problem+json (RFC 9457) with a stable code. What went wrong inside is logged, never answered."""

from __future__ import annotations

import json
import logging
import secrets
from http import HTTPStatus
from math import ceil
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.contracts.api.answers import PROBLEM_TYPE, STATUS_OF_CODE, Problem
from registry.contracts.api.uploads import UPLOAD_OFFSET
from registry.contracts.faults import fault_lines
from registry.errors import OffsetMismatchError, RegistryError, ShareError

MAX_ERRORS = 50
"""So many single faults are named; a body can have thousands."""
RETRY_AFTER_S = {
    "busy": 1,
    "over_share": 5,
    "read_only": 5,
    "storage_failed": 5,
    "insufficient_storage": 30,
    "blob_damaged": 30,
}
"""When to come again, for each code of a `TemporaryError`."""
_CODE_OF_STATUS = (
    {400: "invalid", 422: "invalid"}
    | {status: code for code, status in STATUS_OF_CODE.items() if status not in (409, 422, 503)}
    | {503: "busy"}
)
RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem (RFC 9457)",
        "content": {PROBLEM_TYPE: {"schema": Problem.model_json_schema()}},
    }
}
"""For the OpenAPI document: what any route may answer."""
log = logging.getLogger(__name__)


def problem_response(
    code: str,
    detail: str,
    errors: tuple[str, ...] = (),
    headers: dict[str, str] | None = None,
    status: int | None = None,
) -> Response:
    """The answer for a code; the status follows from the code unless it is given."""
    status = status or STATUS_OF_CODE[code]
    if len(errors) > MAX_ERRORS:
        errors = (*errors[:MAX_ERRORS], f"and {len(errors) - MAX_ERRORS} more")
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, code=code, errors=errors)
    extra = {"WWW-Authenticate": "Bearer"} if code == "unauthorized" else {}
    if code in RETRY_AFTER_S:
        extra = {"Retry-After": str(RETRY_AFTER_S[code])}
    body = json.dumps(problem.model_dump(mode="json")).encode()
    return Response(body, status, {**extra, **(headers or {}), "Cache-Control": "no-store"}, PROBLEM_TYPE)


def response_of(error: RegistryError) -> Response:
    """A refusal of a use case as an answer."""
    headers = {UPLOAD_OFFSET: str(error.offset)} if isinstance(error, OffsetMismatchError) else None
    if isinstance(error, ShareError) and error.wait_s:
        headers = {"Retry-After": str(ceil(error.wait_s))}
    return problem_response(error.code, error.message, error.errors, headers)


def faults_of(error: RequestValidationError | ValidationError) -> tuple[str, ...]:
    """One line per fault: where it is, what is wrong. The value itself is not repeated: it may be a secret."""
    return fault_lines(error.errors())


def install_handlers(app: FastAPI) -> None:
    """Answer the exceptions that routes raise."""

    @app.exception_handler(RegistryError)
    async def refused(_request: Request, error: RegistryError) -> Response:
        return response_of(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        return problem_response("invalid", "The request breaks a rule of the API.", faults_of(error))

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> Response:
        code = _CODE_OF_STATUS.get(error.status_code, "invalid" if error.status_code < 500 else "internal")
        return problem_response(code, str(error.detail), (), dict(error.headers or {}), error.status_code)


class UnexpectedErrors:
    """ASGI middleware, outermost: an exception nobody expected becomes a 500 with an id that is in the log too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on. 500 when nothing was answered yet; else the connection is cut, so that nobody takes it as whole."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except RegistryError as error:
            if started:
                _cut_off(scope, error)
                return
            await response_of(error)(scope, receive, send)
        except MemoryError:
            log.error("%s %s: no memory", scope["method"], scope["path"])  # noqa: TRY400 - no fault of a line of ours
            if not started:
                detail = "The registry has no memory for this now; try again in a moment."
                await problem_response("busy", detail)(scope, receive, send)
        except Exception as error:
            if started and isinstance(error.__cause__, RegistryError):  # as Starlette wraps it then
                _cut_off(scope, error.__cause__)
                return
            if started:
                raise
            incident = secrets.token_hex(8)
            log.exception("incident %s: %s %s", incident, scope["method"], scope["path"])
            detail = f"Something broke inside the registry; its log tells more under incident {incident}."
            await problem_response("internal", detail)(scope, receive, send)


def _cut_off(scope: Scope, error: RegistryError) -> None:
    """The server closes a connection whose answer is not whole."""
    log.warning("%s %s was cut off: %s", scope["method"], scope["path"], error.message)
