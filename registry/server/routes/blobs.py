"""Blobs by digest: out whole or as one range, in by upload sessions.

Out in pieces of 1 MiB (64 KiB, the framework's, costs a factor of five). In, bytes are hashed and written in a thread,
a mebibyte at a time, while the next ones arrive.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from functools import partial
from typing import Annotated

import anyio
from fastapi import APIRouter, Header, Request
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from registry.contracts.api.answers import Page
from registry.contracts.api.answers import Scope as TokenScope
from registry.contracts.api.uploads import UPLOAD_OFFSET, OpenUpload, UploadId, UploadRequest, UploadView
from registry.contracts.paths import API
from registry.contracts.wire import DIGEST_PREFIX, Digest
from registry.errors import DamagedError, NotFoundError, TooLargeError
from registry.server.composition import Services
from registry.server.metrics import BYTES_RECEIVED, BYTES_SENT
from registry.server.middleware.auth import CatalogReader, ServicesDep, Uploader
from registry.server.middleware.etags import IMMUTABLE, none_match, quoted
from registry.server.middleware.limits import closing
from registry.server.middleware.paging import PagingDep
from registry.server.middleware.problems import problem_response, response_of
from registry.services.catalogue.uploads import CHUNK, UploadWriter

LEAST_BYTES = 32 << 10
"""An upload brings at least so much in each `body_timeout_s`: a slow link goes on, one byte a minute does not."""
blobs = APIRouter(prefix=API, tags=["blobs"])
uploads = APIRouter(prefix=API, tags=["uploads"])
_ONE_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*\Z", re.ASCII | re.IGNORECASE)


class UnsatisfiableRangeError(ValueError):
    """The range begins after the last byte."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None: send the whole.

    Args:
        header: The header's value, if there is one.
        size: Bytes of the whole.

    Raises:
        UnsatisfiableRangeError: nothing of it exists: 416.
    """
    match = _ONE_RANGE.match(header) if header is not None else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), int(last) + 1 if last else size
        if end <= start and last:
            return None  # last before first: no range at all
    if start >= size:
        raise UnsatisfiableRangeError(f"bytes {header!r} of {size}")
    return start, min(end, size)


class BlobResponse(Response):
    """Bytes `start` to `end` of a blob. Closes the reader, also when the client leaves.

    When all of the blob is asked for, it is hashed on the way, and its last piece is sent only when its digest is
    right: else the connection is cut, or the answer is a problem where nothing was sent yet.
    """

    def __init__(self, blob: Opened, start: int, end: int, status: int, headers: dict[str, str]) -> None:
        self._blob = blob
        self._start = start
        self._end = end
        self._sha = hashlib.sha256() if blob.unproven and (start, end) == (0, blob.reader.size) else None
        super().__init__(None, status, {**headers, "Content-Length": str(end - start)}, "application/octet-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read and send by turns: there is never more than one piece here and one in the socket's buffer."""
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            piece = await run_in_threadpool(self._piece, self._start)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            at = self._start
            while not gone.done():
                at += len(piece)
                BYTES_SENT.inc(len(piece))
                await send({"type": "http.response.body", "body": piece, "more_body": at < self._end})
                if at >= self._end:
                    break
                piece = await run_in_threadpool(self._piece, at)
        finally:
            gone.cancel()
            self._blob.reader.close()

    def _piece(self, at: int) -> bytes:
        """Raises DamagedError instead of the last piece of a blob that is not whole."""
        piece = self._blob.reader.read_at(at, min(CHUNK, self._end - at))
        whole = bool(piece) or at == self._end
        if self._sha is not None:
            self._sha.update(piece)
            if at + len(piece) == self._end:
                whole = DIGEST_PREFIX + self._sha.hexdigest() == self._blob.digest
        if not whole:
            self._blob.require_whole()
        elif self._sha is not None and at + len(piece) == self._end:
            self._blob.passed()
        return piece


class Opened:
    """A blob that is read for a client."""

    def __init__(self, services: Services, digest: Digest) -> None:
        """Raises NotFoundError, DamagedError."""
        self.digest = digest
        self._services = services
        self.reader = services.checks.open(digest, services.clock())
        self.unproven = not services.checks.trusts(digest, self.reader)

    def passed(self) -> None:
        """It was read whole and is right."""
        self._services.checks.passed(self.digest, self.reader)

    def require_whole(self) -> None:
        """What was read was wrong; is it the copy? Raises DamagedError in any case: what was sent is of no use."""
        self._services.checks.is_whole(self.digest, self._services.clock())
        raise DamagedError(
            f"The registry's copy of {self.digest} is lost or damaged, and is not served. Publish the version again: "
            "its file replaces the copy."
        )


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


@blobs.get(
    "/blobs/{digest}",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The blob"},
        206: {"content": {"application/octet-stream": {}}, "description": "The range that was asked for"},
        304: {"description": "The client has it"},
        416: {"description": "The range begins after the end"},
    },
)
async def get_blob(digest: Digest, request: Request, services: ServicesDep, _who: CatalogReader) -> Response:
    """A blob, or one range of it; the strong ETag is the digest, so a download is resumed with If-Range."""
    blob = await run_in_threadpool(Opened, services, digest)
    reader = blob.reader
    headers = {"ETag": quoted(digest), "Accept-Ranges": "bytes", "Cache-Control": IMMUTABLE}
    if none_match(request, digest):
        reader.close()
        return Response(status_code=304, headers=headers)
    asked = request.headers.get("range")
    if request.headers.get("if-range", quoted(digest)) != quoted(digest):
        asked = None
    try:
        part = parse_range(asked, reader.size)
    except UnsatisfiableRangeError:
        reader.close()
        extent = {**headers, "Content-Range": f"bytes */{reader.size}"}
        return problem_response("range_not_satisfiable", f"The blob has {reader.size} bytes.", headers=extent)
    if part is None:
        return BlobResponse(blob, 0, reader.size, 200, headers)
    start, end = part
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{reader.size}"
    return BlobResponse(blob, start, end, 206, headers)


@blobs.head("/blobs/{digest}", response_class=Response)
def head_blob(digest: Digest, services: ServicesDep, _who: CatalogReader) -> Response:
    """Is it there, and how big is it?"""
    reader = services.checks.open(digest, services.clock())
    reader.close()
    headers = {
        "ETag": quoted(digest),
        "Accept-Ranges": "bytes",
        "Cache-Control": IMMUTABLE,
        "Content-Length": str(reader.size),
    }
    return Response(None, 200, headers, "application/octet-stream")


@uploads.get("/uploads")
def list_uploads(services: ServicesDep, paging: PagingDep, who: Uploader) -> Page[OpenUpload]:
    """Upload sessions that are not complete: an administrator sees all, others their own."""
    found = partial(services.uploads.page, None if who.may(TokenScope.ADMIN) else who.name)
    return paging.answer("uploads", "", found, lambda upload: upload.id)


@uploads.post("/uploads", status_code=201, responses={200: {"model": UploadView, "description": "It is there already"}})
def begin_upload(body: UploadRequest, services: ServicesDep, response: Response, who: Uploader) -> UploadView:
    """Begin an upload, or find the one that this token began; `complete` when nothing has to be sent."""
    if who.device is not None:
        services.fleet.jobs.require_offered(who.device, body.digest, body.size)
    view = services.uploads.begin(body, who.name, services.clock())
    if view.complete:
        response.status_code = 200
    else:
        response.headers["Location"] = f"{API}/uploads/{view.id}"
    return _stated(view, response)


@uploads.get("/uploads/{upload}")
def get_upload(upload: UploadId, services: ServicesDep, response: Response, who: Uploader) -> UploadView:
    """How far it is."""
    return _stated(services.uploads.view(upload, who.name), response)


@uploads.patch(
    "/uploads/{upload}",
    response_model=UploadView,
    openapi_extra={
        "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def send_bytes(
    upload: UploadId,
    request: Request,
    services: ServicesDep,
    who: Uploader,
    offset: Annotated[int, Header(alias=UPLOAD_OFFSET, ge=0, le=1 << 50)],
) -> Response:
    """The bytes from `Upload-Offset` on, as many as the client likes; what came before a cut is kept."""
    receiving = services.uploads.receive(upload, who.name, offset)
    async with contextmanager_in_threadpool(receiving) as receiver:
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > receiver.missing:
            refusal = TooLargeError(f"{receiver.missing} bytes of this upload are missing, {announced} were announced.")
            return closing(response_of(refusal))
        try:
            await _take(request, receiver, services.config.limits.body_timeout_s)
        except TimeoutError:
            return closing(problem_response("timeout", "The bytes came too slowly; go on at the offset."))
        except ClientDisconnect:
            return Response(status_code=499)
        except (TooLargeError, NotFoundError) as error:
            return closing(response_of(error))
        view = await run_in_threadpool(services.uploads.finish, receiver, services.clock())
    response = Response(view.model_dump_json(), media_type="application/json")
    response.headers[UPLOAD_OFFSET] = str(view.offset)
    return response


@uploads.delete("/uploads/{upload}", status_code=204)
def cancel_upload(upload: UploadId, services: ServicesDep, who: Uploader) -> None:
    """Give it up; its bytes are dropped. An administrator may cancel anybody's, also while its bytes come."""
    services.uploads.cancel(upload, None if who.may(TokenScope.ADMIN) else who.name)


async def _take(request: Request, receiver: UploadWriter, timeout_s: float) -> None:
    """All of the body into the receiver. What came is written also when the client leaves or is too slow.

    Raises TimeoutError when fewer than LEAST_BYTES come within `timeout_s` and it is not the end.
    """
    waiting = bytearray()
    writing: asyncio.Task[None] | None = None
    body = aiter(request.stream())
    until, came = time.monotonic() + timeout_s, 0
    try:
        while True:
            with anyio.fail_after(max(0.0, until - time.monotonic())):
                piece = await anext(body, None)
            if piece is None or receiver.cancelled:
                break
            came += len(piece)
            if came >= LEAST_BYTES:
                until, came = time.monotonic() + timeout_s, 0
            waiting += piece
            if len(waiting) >= CHUNK:
                if writing is not None:
                    await writing
                writing = asyncio.create_task(_write(receiver, waiting))
                waiting = bytearray()
    finally:
        if writing is not None:
            await writing
        fitting = waiting[: receiver.missing]
        await _write(receiver, fitting)
    if len(waiting) > len(fitting):
        raise TooLargeError(f"More came than the {receiver.row.size} bytes that were announced.")


async def _write(receiver: UploadWriter, data: bytearray) -> None:
    await run_in_threadpool(receiver.take, data)
    BYTES_RECEIVED.inc(len(data))


def _stated(view: UploadView, response: Response) -> UploadView:
    response.headers[UPLOAD_OFFSET] = str(view.offset)
    response.headers["Cache-Control"] = "no-store"
    return view
