"""The registry's HTTP API: uploads, which bring blobs in parts that can be resumed."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from registry.contracts.digest import Digest
from registry.contracts.wire import Wire

UPLOAD_OFFSET = "upload-offset"
"""Header of upload requests and answers: the byte at which the next one starts. The server states, the client obeys."""


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
    size: int
    """Bytes of the blob."""
    offset: int
    """Bytes that the registry has; the next PATCH begins there."""
    complete: bool = False
    """The blob is there."""
    expires_at: AwareDatetime | None = None
    """When an unfinished session is removed. None: it is complete."""
