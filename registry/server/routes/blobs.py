"""Blobs by digest: whole or one range, in pieces of 1 MiB (64 KiB, the framework's, costs a factor of five)."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from registry.contracts.paths import API
from registry.contracts.wire import DIGEST_PREFIX, Digest
from registry.core.ranges import UnsatisfiableRangeError, parse_range
from registry.errors import DamagedError
from registry.server.composition import Services
from registry.server.metrics import BYTES_SENT
from registry.server.middleware.auth import CatalogReader, ServicesDep
from registry.server.middleware.etags import IMMUTABLE, none_match, quoted
from registry.server.middleware.problems import problem_response

CHUNK = 1 << 20
router = APIRouter(prefix=API, tags=["blobs"])


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


@router.head("/blobs/{digest}", response_class=Response)
def head_blob(digest: Annotated[Digest, Path()], services: ServicesDep, _who: CatalogReader) -> Response:
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
