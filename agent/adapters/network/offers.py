"""Gives the registry what a job of this device made: the variant first, then exactly the files that it lacks.

Idempotent: the same offer again finds what is there and goes on where an upload was cut. An outage is waited out, with
growing pauses, until the job is cancelled or its time is over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from agent.adapters.disk.durable import disk_errors
from agent.adapters.network.registry_answers import RegistryRefusedError, UnreachableError
from agent.adapters.network.registry_client import RegistryClient
from agent.errors import PermanentError, StepCancelledError
from registry.contracts.api.uploads import UPLOAD_CURABLE, UploadRequest, UploadSegment, UploadView, next_segment
from registry.contracts.api.versions import VariantAnswer, VariantOffer
from registry.contracts.backoff import Backoff
from registry.contracts.catalogue.manifest import FileRef, Variant
from registry.contracts.codes import DeploymentCode
from registry.contracts.paths import job_variant_path, upload_path, uploads_path
from registry.contracts.wire import Digest

PIECE = 1 << 20
PAUSE = Backoff(first_s=0.5, cap_s=30.0)
ROUNDS = 3
"""Offers after which everything must be there: more mean that the registry forgets what it gets."""
_JSON = {"Content-Type": "application/json"}
Tell = Callable[[int], None]
Answer = TypeVar("Answer", bound=BaseModel)


def give_variant(
    client: RegistryClient, job: str, variant: Variant, folder: Path, *, cancel: threading.Event, tell: Tell
) -> Digest:
    """Has the variant added to its version; the files are below `folder`. The manifest that has it.

    Args:
        tell: Told how many bytes of the files are there, after each piece.

    Raises:
        PermanentError: the registry does not take it.
        StepCancelledError: `cancel` was set.
        TransientError: the disk refuses.
    """
    giving = _Giving(client, folder, cancel, tell)
    path, body = job_variant_path(job), VariantOffer(variant=variant).canonical()
    for _ in range(ROUNDS):
        answer = giving.patiently(lambda: _parsed(client.call("PUT", path, body, _JSON), VariantAnswer))
        if answer.manifest is not None:
            return answer.manifest
        for file in answer.missing:
            giving.patiently(lambda file=file: giving.upload(file))  # type: ignore[misc]
    raise PermanentError(DeploymentCode.BAD_ANSWER, f"the registry lacks files of {variant.name} that it was given")


class _Giving:
    """One offer under way."""

    def __init__(self, client: RegistryClient, folder: Path, cancel: threading.Event, tell: Tell) -> None:
        self._client = client
        self._folder = folder
        self._cancel = cancel
        self._tell = tell
        self._before = 0

    def patiently(self, work: Callable[[], Answer]) -> Answer:
        """`work` until the registry can be reached."""
        attempt = 0
        while True:
            attempt += 1
            if self._cancel.is_set():
                raise StepCancelledError
            try:
                return work()
            except UnreachableError as error:
                if self._cancel.wait(max(PAUSE.delay(attempt), error.retry_after_s)):
                    raise StepCancelledError from None

    def upload(self, file: FileRef) -> UploadView:
        """From where the registry says that it goes on."""
        try:
            view = self._sent(file)
        except RegistryRefusedError as error:
            if error.problem in UPLOAD_CURABLE:
                raise UnreachableError(error.message) from error
            raise
        self._before += file.size
        return view

    def _sent(self, file: FileRef) -> UploadView:
        request = UploadRequest(digest=file.digest, size=file.size)
        view = _parsed(self._client.call("POST", uploads_path(), request.canonical(), _JSON), UploadView)
        while (segment := _next_segment(request, view)) is not None:
            pieces = self._pieces(file, segment)
            view = _parsed(self._client.call("PATCH", upload_path(view.id), pieces, segment.headers), UploadView)
            if view.offset <= segment.offset and not view.complete:
                raise UnreachableError(f"the registry has {view.offset} of {file.size} bytes of {file.path}")
        return view

    def _pieces(self, file: FileRef, segment: UploadSegment) -> Iterator[bytes]:
        position, end, path = segment.offset, segment.offset + segment.length, self._folder / file.path
        with disk_errors(path), path.open("rb") as stream:
            stream.seek(position)
            while piece := stream.read(min(PIECE, end - position)):
                if self._cancel.is_set():
                    raise StepCancelledError
                yield piece
                position += len(piece)
                self._tell(self._before + position)


def _next_segment(request: UploadRequest, view: UploadView) -> UploadSegment | None:
    try:
        return next_segment(request, view)
    except ValueError as error:
        raise UnreachableError(str(error)) from error


def _parsed(data: bytes, kind: type[Answer]) -> Answer:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise UnreachableError(f"what was answered is no {kind.__name__} of the registry: {error}") from None
