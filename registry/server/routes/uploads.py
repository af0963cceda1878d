"""Upload sessions. Bytes are hashed and written in a thread, a mebibyte at a time, while the next ones arrive."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import anyio
from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from registry.contracts.api.uploads import UPLOAD_OFFSET, UploadRequest, UploadView
from registry.contracts.paths import API
from registry.errors import TooLargeError
from registry.server.metrics import BYTES_RECEIVED
from registry.server.middleware.auth import ServicesDep, Uploader
from registry.server.middleware.limits import closing
from registry.server.middleware.problems import problem_response, response_of
from registry.services.catalogue.uploads import CHUNK, UploadWriter

LEAST_BYTES = 32 << 10
"""An upload brings at least so much in each `body_timeout_s`: a slow link goes on, one byte a minute does not."""
UploadId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
router = APIRouter(prefix=API, tags=["uploads"])


@router.post("/uploads", status_code=201, responses={200: {"model": UploadView, "description": "It is there already"}})
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


@router.get("/uploads/{upload}")
def get_upload(upload: UploadId, services: ServicesDep, response: Response, who: Uploader) -> UploadView:
    """How far it is."""
    return _stated(services.uploads.view(upload, who.name), response)


@router.patch(
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
        except TooLargeError as error:
            return closing(response_of(error))
        view = await run_in_threadpool(services.uploads.finish, receiver, services.clock())
    response = Response(view.model_dump_json(), media_type="application/json")
    response.headers[UPLOAD_OFFSET] = str(view.offset)
    return response


@router.delete("/uploads/{upload}", status_code=204)
def cancel_upload(upload: UploadId, services: ServicesDep, who: Uploader) -> None:
    """Give it up; its bytes are dropped."""
    services.uploads.cancel(upload, who.name)


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
            if piece is None:
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
