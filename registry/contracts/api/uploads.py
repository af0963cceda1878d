"""The registry's HTTP API: uploads, which bring blobs in parts that can be resumed, and the rules of who sends one.

Beginning again is always safe: the registry answers with the session that is open, or that the blob is there. So
every recovery is the same: wait, begin again, go on at the offset that the registry names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AwareDatetime, Field

from registry.contracts.wire import Digest, Integer, Wire

UploadId = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
"""Names an upload session."""
UPLOAD_OFFSET = "upload-offset"
"""Header of upload requests and answers: the byte at which the next one starts. The server states, the client obeys."""
MAX_SEGMENT = 256 << 20
"""Bytes that one request should send at most, so that its answer confirms progress."""
UPLOAD_CURABLE = frozenset({"offset_mismatch", "not_found", "busy", "over_share", "timeout"})
"""Codes of refusals that beginning again may cure. Not digest_mismatch: something on the way changes bytes, and sending
gigabytes again would only hide it."""


class UploadRequest(Wire):
    """Begin an upload: the client says which blob it will send."""

    digest: Digest
    """What the bytes will hash to."""
    size: Annotated[int, Field(ge=0, le=1 << 50)]
    """Bytes of the blob."""


class UploadView(Wire):
    """An upload session. `complete` means the blob is there: nothing (more) has to be sent."""

    id: str
    """Names the session in its address. Empty: there is nothing to send."""
    digest: Digest
    """The blob."""
    size: Integer
    """Bytes of the blob."""
    offset: Integer
    """Bytes that the registry has; the next PATCH begins there."""
    complete: bool = False
    """The blob is there."""
    expires_at: AwareDatetime | None = None
    """When an unfinished session is removed. None: it is complete."""


class OpenUpload(Wire):
    """An upload session that is not complete, as it is listed."""

    id: str
    """Names the session in its address."""
    caller: str
    """The token that began it, or the device's credential: it has one owner."""
    digest: Digest
    """The blob."""
    size: Integer
    """Bytes of the blob; what is still to come is kept free for it."""
    offset: Integer
    """Bytes that came."""
    began_at: AwareDatetime
    """When it was begun, UTC."""
    touched_at: AwareDatetime
    """When something of it came last, or it was begun again."""
    expires_at: AwareDatetime
    """When it is removed, if nothing more comes."""
    sending: bool = False
    """A request sends bytes of it now, to this process."""


@dataclass(frozen=True)
class UploadSegment:
    """What one request of an upload sends: `length` bytes from `offset` on."""

    offset: int
    """Where it begins: bytes that the registry has."""
    length: int
    """Bytes."""

    @property
    def headers(self) -> dict[str, str]:
        """Of that request."""
        return {
            UPLOAD_OFFSET: str(self.offset),
            "content-type": "application/octet-stream",
            "content-length": str(self.length),
        }


def next_segment(request: UploadRequest, view: UploadView) -> UploadSegment | None:
    """What to send after the registry answered `view`; None: the blob is there.

    Raises:
        ValueError: the answer belongs to another upload.
    """
    if view.digest != request.digest or not 0 <= view.offset <= request.size:
        raise ValueError("The registry answered for another upload than was asked for")
    if view.complete:
        return None
    return UploadSegment(view.offset, min(MAX_SEGMENT, request.size - view.offset))
