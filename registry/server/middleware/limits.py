"""ASGI middleware: bounds on the body of every request but an upload's, whose route bounds it itself.

The body is read whole, with a deadline between its pieces, before a route starts: a slow client holds no thread.
Only a known caller's body is read. All bodies together have a bound, and those of one caller have a part of it, counted
by what came and not by what was announced: nobody fills the memory, or takes the place of the others, by many slow
requests. Size, the nesting of brackets and NUL characters are checked before anything parses it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.config import Limits
from registry.contracts.catalogue.manifest import MAX_MANIFEST_BYTES
from registry.contracts.paths import API
from registry.core.shares import Holdings, Lack, part_of
from registry.errors import BusyError, RegistryError, ShareError, UnauthorizedError
from registry.server.middleware.auth import caller_name, caller_of, services_of
from registry.server.middleware.problems import problem_response, response_of
from registry.services.access.principals import ANONYMOUS
from registry.services.shares import ShareRefusals

_STRING = re.compile(rb'"(?:[^"\\]+|\\.)*"?', re.DOTALL)
"""Also matches a string that does not end, so that no text makes it try again from each quote."""
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def nests_deeper(text: bytes, limit: int) -> bool:
    """Do objects and arrays of the text nest more than `limit` levels? Linear in its length."""
    depth = 0
    for bracket in _STRING.sub(b"", text).translate(None, _NOT_BRACKETS):
        if bracket in b"[{":
            depth += 1
            if depth > limit:
                return True
        else:
            depth -= 1
    return False


_UPLOADS = f"{API}/uploads/"
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""As JSON escapes it: after an even number of backslashes. PostgreSQL could not keep it, SQLite could."""
SLOW_DOWN_S = 1.0
"""A caller over its share gets its answer so much later."""
WHOLE_BODY = 5
"""All of a body comes within so many times the deadline between two of its pieces."""


@dataclass(frozen=True)
class OtherBodies:
    """Bodies below a path that are no JSON of the API: forms of pages."""

    path: str
    """The beginning of their paths."""
    most: Callable[[Request], Awaitable[int]]
    """How many bytes this request may bring; 0: none is read, and the route says why it refuses."""


class BodyLimits:
    """See the module."""

    def __init__(self, app: ASGIApp, limits: Limits, others: tuple[OtherBodies, ...] = ()) -> None:
        self._app = app
        self._limits = limits
        self._others = others
        total, largest = limits.held_body_bytes, max(limits.json_bytes, MAX_MANIFEST_BYTES)
        self._held = Holdings(max(total, largest), max(part_of(total, limits.share_of_caller), largest))
        """Bytes of all bodies that are being read or answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the body, then pass on."""
        if scope["type"] != "http" or (scope["method"] == "PATCH" and scope["path"].startswith(_UPLOADS)):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"") if b"transfer-encoding" not in headers else b"unknown"
        if length in (b"", b"0"):
            await self._app(scope, receive, send)
            return
        other = next((each for each in self._others if scope["path"].startswith(each.path)), None)
        request = Request(scope)
        try:
            if other is not None:
                most, caller = await other.most(request), caller_name(request, ANONYMOUS)
            else:
                most, caller = await self._most_json(request)
        except RegistryError as error:
            if isinstance(error, ShareError):  # else it is back at once, and its refusals cost the others what it did
                await asyncio.sleep(SLOW_DOWN_S)
            await closing(response_of(error))(scope, receive, send)
            return
        if not most:
            await self._app(scope, receive, send)
            return
        if length.isdigit() and int(length) > most:
            await _too_large(most)(scope, receive, send)
            return
        held = _HeldBody(self._held, caller, services_of(request).shares)
        try:
            await self._answer(scope, receive, send, most, held, is_json=other is None)
        finally:
            held.give_back()

    async def _most_json(self, request: Request) -> tuple[int, str]:
        who = await caller_of(request)
        if who is ANONYMOUS:
            raise UnauthorizedError("A request with a body needs a token: `Authorization: Bearer <token>`.")
        if who.device is not None and request.url.path.endswith("/reports"):
            services_of(request).fleet.telemetry.require_budget(who.device)
        is_manifest = request.method == "PUT" and "/versions/" in request.url.path
        return MAX_MANIFEST_BYTES if is_manifest else self._limits.json_bytes, caller_name(request, who)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, most: int, held: _HeldBody, *, is_json: bool
    ) -> None:
        body = bytearray()
        try:
            refusal = await self._read(receive, body, most, held) or (self._judge(body) if is_json else None)
        except _GoneError:
            return
        await (refusal or self._app)(scope, _replay(bytes(body), receive), send)

    async def _read(self, receive: Receive, body: bytearray, most: int, held: _HeldBody) -> Response | None:
        """All of the body, and None; else why not, with a little more than is allowed of it."""
        try:
            with anyio.fail_after(self._limits.body_timeout_s * WHOLE_BODY):
                while True:
                    with anyio.fail_after(self._limits.body_timeout_s):
                        message = await receive()
                    if message["type"] != "http.request":
                        raise _GoneError
                    piece = message.get("body", b"")
                    if len(body) + len(piece) > most:
                        return _too_large(most)
                    held.take(len(piece))
                    body += piece
                    if not message.get("more_body", False):
                        return None
        except TimeoutError:
            return closing(problem_response("timeout", "The body came too slowly."))
        except BusyError as error:
            return closing(response_of(error))

    def _judge(self, body: bytearray) -> Response | None:
        if b"\0" in body:  # JSON in UTF-16 or UTF-32, which a parser would take, and where brackets hide in strings
            return problem_response("invalid", "The body has a NUL byte; JSON is sent as UTF-8.")
        if b"\\u0000" in body and _NUL.search(body):
            return problem_response("invalid", "A text in the body has a NUL character, which no text may have.")
        if nests_deeper(bytes(body), self._limits.json_depth):
            return problem_response("invalid", f"The JSON nests deeper than {self._limits.json_depth} levels.")
        return None


class _HeldBody:
    """What one request holds of the bytes that there may be."""

    def __init__(self, held: Holdings, caller: str, shares: ShareRefusals) -> None:
        self._held, self._caller, self._shares = held, caller, shares
        self._bytes = 0

    def take(self, size: int) -> None:
        """So much more came. Raises BusyError, ShareError."""
        lack = self._held.take(self._caller, size) if size else None
        if lack is Lack.OWN:
            text = "The registry holds as many bytes of your requests as one caller may have; send fewer at once."
            raise self._shares.refused("bodies", self._caller, text, 1)
        if lack is Lack.ALL:
            raise BusyError("The registry holds the bodies of too many requests; try again in a moment.")
        self._bytes += size

    def give_back(self) -> None:
        """The request is answered."""
        if self._bytes:
            self._held.give(self._caller, self._bytes)


class _GoneError(Exception):
    """The client left before its body was whole."""


def _too_large(most: int) -> Response:
    return closing(problem_response("too_large", f"The body may have {most} bytes."))


def closing(response: Response) -> Response:
    """For a refusal that leaves a body unread."""
    response.headers["Connection"] = "close"
    return response


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hands out the body that was read, then what else comes."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
