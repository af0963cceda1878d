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
    size: Annotated[int, Field(ge=0, le=1 << 50)]


class UploadView(Wire):
    """An upload session. `complete` means the blob is there: nothing (more) has to be sent."""

    id: str
    digest: Digest
    size: int
    offset: int
    complete: bool = False
    expires_at: AwareDatetime | None = None
