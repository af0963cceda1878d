"""Sends one blob: the server states the next byte, this side obeys, and a cut costs only what was on its way.

Beginning again is always safe: the server answers with the session that is open, or that the blob is there.
So every recovery is the same: wait a little, begin again, go on at the offset that it says. Attempts in a row
without progress are limited; progress starts the count again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

import httpx

from registry.client.api import TRANSIENT, Client
from registry.client.errors import ClientError, NoAnswerError, ProblemError
from registry.client.local_files import BUFFER_BYTES, LocalFile
from registry.contracts.api.uploads import UPLOAD_OFFSET, UploadRequest, UploadView
from registry.contracts.paths import upload_path, uploads_path

SEGMENT_BYTES = 256 << 20
"""One request sends at most so much, so that its answer confirms progress."""
ATTEMPTS = 8
FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 10.0
_TIMEOUT = httpx.Timeout(60.0, connect=5.0, read=300.0)
"""The answer to the last byte comes after the server made a big blob durable."""
_AGAIN = frozenset({"offset_mismatch", "not_found", "busy", "timeout"})
"""Problems that a new beginning may cure. Not digest_mismatch: the file was checked here, so something on the way
changes bytes, and sending gigabytes again would only hide it."""


def upload(client: Client, file: LocalFile, tell: Callable[[int], None], note: Callable[[str], None]) -> int:
    """Bring one blob into the registry.

    Args:
        client: The registry.
        file: What to send.
        tell: Told the position in the file.
        note: Told of every cut, in a sentence.

    Returns:
        The bytes that were sent; 0 when the registry had the blob.

    Raises:
        ClientError: it was refused, the file changed, or there was no progress in ATTEMPTS attempts.
    """
    sending = _Sending(client, file, tell)
    failures = 0
    while (fault := sending.run()) is not None:
        failures = 1 if sending.advanced() else failures + 1
        if failures >= ATTEMPTS or not _curable(fault):
            raise fault
        delay = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (failures - 1))
        note(f"{fault.what}; going on in {delay:.1f} s")
        time.sleep(delay)
    return sending.sent


class _Sending:
    """One blob on its way, over as many cuts as it takes."""

    def __init__(self, client: Client, file: LocalFile, tell: Callable[[int], None]) -> None:
        self._client, self._file, self._tell = client, file, tell
        self.sent = 0
        self._confirmed = self._before = -1

    def run(self) -> NoAnswerError | ProblemError | None:
        """Begin (again) and send until the blob is there (None) or something stops it."""
        try:
            view = _begin(self._client, self._file)
            while not view.complete:
                self._confirmed = max(self._confirmed, view.offset)
                self._tell(view.offset)
                start = view.offset
                view = _send_segment(self._client, self._file, view, self._tell)
                self.sent += max(0, view.offset - start)
                if view.offset <= start and not view.complete:
                    return NoAnswerError("The registry took no byte of the last request")
        except (NoAnswerError, ProblemError) as fault:
            return fault
        self._tell(self._file.size)
        return None

    def advanced(self) -> bool:
        """Did the registry confirm a byte since this was last asked?"""
        before, self._before = self._before, self._confirmed
        return self._confirmed > before


def _begin(client: Client, file: LocalFile) -> UploadView:
    request = UploadRequest(digest=file.digest, size=file.size)
    view = client.change("POST", uploads_path(), request, UploadView, repeatable=True)
    return _checked(view, file)


def _send_segment(client: Client, file: LocalFile, view: UploadView, tell: Callable[[int], None]) -> UploadView:
    length = min(SEGMENT_BYTES, file.size - view.offset)
    headers = {
        UPLOAD_OFFSET: str(view.offset),
        "content-type": "application/octet-stream",
        "content-length": str(length),
    }
    with file.open() as source:
        source.seek(view.offset)
        content = _pieces(source, view.offset, length, tell)
        answer = client.call("PATCH", upload_path(view.id), content=content, headers=headers, timeout=_TIMEOUT)
    return _checked(answer.decode(UploadView), file)


def _pieces(source: BinaryIO, position: int, length: int, tell: Callable[[int], None]) -> Iterator[bytes]:
    end = position + length
    while position < end:
        piece = source.read(min(BUFFER_BYTES, end - position))
        if not piece:
            raise ClientError("The file became shorter while it was being published", code="file_changed")
        yield piece
        position += len(piece)
        tell(position)


def _checked(view: UploadView, file: LocalFile) -> UploadView:
    if view.digest != file.digest or not 0 <= view.offset <= file.size:
        raise ClientError("The registry answered for another upload than was asked for", code="bad_answer")
    return view


def _curable(error: NoAnswerError | ProblemError) -> bool:
    return isinstance(error, NoAnswerError) or error.code in _AGAIN or error.status in TRANSIENT
