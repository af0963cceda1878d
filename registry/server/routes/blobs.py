"""Blobs by digest: whole or one range, in pieces of 1 MiB (64 KiB, the framework's, costs a factor of five)."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from registry.blobs.base import BlobReader
from registry.contracts.digest import Digest
from registry.contracts.paths import API
from registry.core.ranges import UnsatisfiableRangeError, parse_range
from registry.server.auth import CatalogReader, ServicesDep
from registry.server.etags import IMMUTABLE, none_match, quoted
from registry.server.metrics import BYTES_SENT
from registry.server.problems import problem_response

CHUNK = 1 << 20
router = APIRouter(prefix=API, tags=["blobs"])


class BlobResponse(Response):
    """Bytes `start` to `end` of a blob. Closes the reader, also when the client leaves."""

    def __init__(self, reader: BlobReader, start: int, end: int, status: int, headers: dict[str, str]) -> None:
        self._reader = reader
        self._start = start
        self._end = end
        super().__init__(None, status, {**headers, "Content-Length": str(end - start)}, "application/octet-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read and send by turns: there is never more than one piece here and one in the socket's buffer."""
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            at = self._start
            while at < self._end and not gone.done():
                piece = await run_in_threadpool(self._reader.read_at, at, min(CHUNK, self._end - at))
                if not piece:
                    raise OSError(f"a blob ended at {at} of {self._end} bytes")
                at += len(piece)
                BYTES_SENT.inc(len(piece))
                await send({"type": "http.response.body", "body": piece, "more_body": at < self._end})
            if self._start == self._end:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            self._reader.close()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


@router.get(
    "/blobs/{digest}",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The blob"},
        206: {"content": {"application/octet-stream": {}}, "description": "The range that was asked for"},
        304: {"description": "The client has it"},
        416: {"description": "The range begins after the end"},
    },
)
async def get_blob(
    digest: Annotated[Digest, Path()], request: Request, services: ServicesDep, _who: CatalogReader
) -> Response:
    """A blob, or one range of it; the strong ETag is the digest, so a download is resumed with If-Range."""
    reader = await run_in_threadpool(services.blobs.open, digest)
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
        return BlobResponse(reader, 0, reader.size, 200, headers)
    start, end = part
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{reader.size}"
    return BlobResponse(reader, start, end, 206, headers)


@router.head("/blobs/{digest}", response_class=Response)
def head_blob(digest: Annotated[Digest, Path()], services: ServicesDep, _who: CatalogReader) -> Response:
    """Is it there, and how big is it?"""
    reader = services.blobs.open(digest)
    reader.close()
    headers = {
        "ETag": quoted(digest),
        "Accept-Ranges": "bytes",
        "Cache-Control": IMMUTABLE,
        "Content-Length": str(reader.size),
    }
    return Response(None, 200, headers, "application/octet-stream")
