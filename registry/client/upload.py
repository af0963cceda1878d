"""Sends one blob: the registry states the next byte, this side obeys, and a cut costs only what was on its way.

The rules of an upload are in `registry.contracts.api.uploads`. Tries in a row without progress are limited; progress
starts the count again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

import httpx

from registry.client.api import ApiClient
from registry.client.errors import ClientError, NoAnswerError
from registry.client.local_files import BUFFER_BYTES, LocalFile
from registry.client.retries import Retries, ignore
from registry.contracts.api.uploads import UPLOAD_CURABLE, UploadRequest, UploadSegment, UploadView, next_segment
from registry.contracts.paths import upload_path, uploads_path

_TIMEOUT = httpx.Timeout(60.0, connect=5.0, read=300.0)
"""The answer to the last byte comes after the server made a big blob durable."""


def upload(
    client: ApiClient, file: LocalFile, tell: Callable[[int], None] = ignore, note: Callable[[str], None] = ignore
) -> int:
    """Bring one blob into the registry.

    Args:
        client: The registry.
        file: What to send.
        tell: Told the position in the file.
        note: Told of every cut, in a sentence.

    Returns:
        The bytes that were sent; 0 when the registry had the blob.

    Raises:
        ClientError: it was refused, the file changed, or there was no progress in several tries.
    """
    sending, retries, confirmed = _Sending(client, file, tell), Retries(note), -1
    while not sending.complete:
        try:
            sending.run()
        except ClientError as fault:
            curable = fault.transient or fault.code in UPLOAD_CURABLE
            retries.wait(fault, curable=curable, advanced=sending.confirmed > confirmed)
        confirmed = sending.confirmed
    return sending.sent


class _Sending:
    """One blob on its way, over as many cuts as it takes."""

    def __init__(self, client: ApiClient, file: LocalFile, tell: Callable[[int], None]) -> None:
        self._client, self._file, self._tell = client, file, tell
        self._request = UploadRequest(digest=file.digest, size=file.size)
        self.sent = 0
        self.complete = False
        self.confirmed = -1
        """The largest offset that the registry named."""

    def run(self) -> None:
        """Begin (again) and send until the blob is there. Raises ClientError for whatever stops it."""
        view = self._client.change("POST", uploads_path(), self._request, UploadView, repeatable=True)
        segment = self._next(view)
        while segment is not None:
            self.confirmed = max(self.confirmed, segment.offset)
            self._tell(segment.offset)
            before, view = segment, self._send(view.id, segment)
            segment = self._next(view)
            self.sent += max(0, view.offset - before.offset)
            if segment is not None and segment.offset <= before.offset:
                raise NoAnswerError("The registry took no byte of the last request")
        self.complete = True
        self._tell(self._file.size)

    def _next(self, view: UploadView) -> UploadSegment | None:
        try:
            return next_segment(self._request, view)
        except ValueError as error:
            raise ClientError(str(error), code="bad_answer") from error

    def _send(self, upload_id: str, segment: UploadSegment) -> UploadView:
        with self._file.open() as source:
            source.seek(segment.offset)
            content = _pieces(source, segment, self._tell)
            path = upload_path(upload_id)
            answer = self._client.call("PATCH", path, content=content, headers=segment.headers, timeout=_TIMEOUT)
        return answer.decode(UploadView)


def _pieces(source: BinaryIO, segment: UploadSegment, tell: Callable[[int], None]) -> Iterator[bytes]:
    position, end = segment.offset, segment.offset + segment.length
    while position < end:
        piece = source.read(min(BUFFER_BYTES, end - position))
        if not piece:
            raise ClientError("The file became shorter while it was being published", code="file_changed")
        yield piece
        position += len(piece)
        tell(position)
