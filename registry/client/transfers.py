"""Blobs on their way between this host and the registry, named by digest. Each goes on where it was cut.

What is sent has the same bytes from hashing to sending: the registry states the next byte, this side obeys
(`registry.contracts.api.uploads`). What is fetched is checked by its digest before it counts as there. Tries in a row
without progress are limited; progress starts the count again.

`pull` brings the files of a version into a directory: `DIR/<variant>/<path>` for every file, each visible only when it
is whole, the model card beside the variants, and `DIR/manifest.json` written last: where it lies, everything is there.
Unfinished bytes wait in `DIR/.partial/`.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from registry.client.api import ApiClient
from registry.client.errors import ClientError, NoAnswerError
from registry.contracts.api.uploads import UPLOAD_CURABLE, UploadRequest, UploadSegment, UploadView, next_segment
from registry.contracts.backoff import Backoff
from registry.contracts.catalogue.manifest import FileRef, Manifest, Target, Variant
from registry.contracts.paths import blob_path, upload_path, uploads_path
from registry.contracts.texts import size_text
from registry.contracts.wire import DIGEST_PREFIX, Digest, hex_of
from registry.httpclient.ranges import RangeError, body_start

PAUSES = Backoff(first_s=0.25, cap_s=10.0, limit=8)


BUFFER_BYTES = 1 << 20
_BEGIN_ANEW = "Remove what an earlier pull left in .partial, or go round the proxy with NO_PROXY."
_TIMEOUT = httpx.Timeout(60.0, connect=5.0, read=300.0)
"""The answer to the last byte comes after the server made a big blob durable."""


Progress = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]
"""Entered while a file is read or fetched, with what is done (`pulling lenet.onnx`), its bytes and how many were there
before. It gives what is told the position in the file."""


def ignore(*_: object) -> None:
    """For a caller who wants to be told nothing."""


class Retries:
    """Counts tries in a row that made no progress, and waits between them.

    Args:
        note: Told of every cut, in a sentence.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._failures = 0

    def wait(self, fault: ClientError, *, curable: bool, advanced: bool) -> None:
        """Sleep before the next try.

        Args:
            fault: What ended this one.
            curable: Could the same succeed later?
            advanced: Did this try make progress?

        Raises:
            ClientError: `fault`, when there is no next try.
        """
        self._failures = 1 if advanced else self._failures + 1
        if not curable or PAUSES.exhausted(self._failures):
            raise fault
        delay = PAUSES.delay(self._failures)
        self._note(f"{fault.what}; going on in {delay:.1f} s")
        time.sleep(delay)


@dataclass(frozen=True)
class LocalFile:
    """One file, as it was when it was hashed."""

    path: Path
    digest: Digest
    size: int
    identity: tuple[int, ...]
    """Device, inode, size, modification time: other ones mean other bytes."""

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, still the one that was hashed.

        Raises:
            ClientError: it was replaced or changed since, or cannot be read.
        """
        with _opened(self.path) as file:
            if _identity(file) != self.identity:
                raise ClientError(
                    f"{self.path} changed while it was being published",
                    code="file_changed",
                    hint="Wait until whatever writes it is done, then repeat the command.",
                )
            yield file


def hash_file(path: Path, tell: Callable[[int], None] = lambda _position: None) -> LocalFile:
    """Read a file once and name it.

    Args:
        path: A regular file; a link that the publisher named is followed.
        tell: Told the position in the file.

    Raises:
        ClientError: it cannot be read, or changed while it was read.
    """
    digest = hashlib.sha256()
    buffer = bytearray(BUFFER_BYTES)
    view = memoryview(buffer)
    with _opened(path) as file:
        identity = _identity(file)
        while count := file.readinto(buffer):  # type: ignore[attr-defined]
            digest.update(view[:count])
            tell(file.tell())
        if _identity(file) != identity:
            raise ClientError(f"{path} changed while it was read", code="file_changed", hint="Repeat the command.")
    return LocalFile(path, DIGEST_PREFIX + digest.hexdigest(), identity[2], identity)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not block
    except OSError as error:
        raise ClientError(f"{path} cannot be read: {error.strerror}", code="file_unreadable") from error
    with os.fdopen(handle, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ClientError(f"{path} is not a regular file", code="file_unreadable")
        yield file


def _identity(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def download(
    client: ApiClient,
    file: FileRef,
    partial: Path,
    tell: Callable[[int], None] = ignore,
    note: Callable[[str], None] = ignore,
) -> int:
    """Fetch one blob.

    Args:
        client: The registry.
        file: What to fetch; its path is for messages only.
        partial: Filled until it has the digest; then it is on the disk. It may hold a beginning.
        tell: Told the position in the file.
        note: Told of every cut, in a sentence.

    Returns:
        The bytes that came over the network.

    Raises:
        ClientError: refused, wrong bytes, or no progress in several tries.
    """
    with partial.open("a+b", buffering=0) as out:
        digest = hashlib.sha256()
        out.seek(0)
        while piece := out.read(BUFFER_BYTES):
            digest.update(piece)
        start = position = out.tell()
        came, retries = 0, Retries(note)
        while position < file.size:
            before = position
            try:
                _receive(client, file, out, digest, tell)
            except ClientError as fault:
                retries.wait(fault, curable=fault.transient, advanced=out.tell() > before)
            finally:
                position = out.tell()
                came += position - before
        os.fsync(out.fileno())
        if position != file.size or DIGEST_PREFIX + digest.hexdigest() != file.digest:
            partial.unlink()
            kind = "what an earlier pull left" if start == file.size else "what came"
            raise ClientError(
                f"The bytes of {file.path} are not those of its digest ({kind}); they were thrown away",
                code="digest_mismatch",
                hint="Repeat the command. If it stays so, the registry's disk or something on the way is at fault.",
            )
    return came


def _receive(client: ApiClient, file: FileRef, out: BinaryIO, digest: Any, tell: Callable[[int], None]) -> None:
    """One request from where `out` ends. Raises ClientError for whatever stops it before the end."""
    start = out.tell()
    headers = {"range": f"bytes={start}-"} if start else {}
    with client.download(blob_path(file.digest), {**headers, "accept-encoding": "identity"}) as response:
        _require_rest(response, start, file)
        for piece in response.iter_bytes(BUFFER_BYTES):  # decoded, should somebody on the way encode it
            if out.tell() + len(piece) > file.size:
                raise ClientError(
                    f"The registry sent more than the {file.size} bytes of {file.path}", code="bad_answer"
                )
            out.write(piece)
            digest.update(piece)
            tell(out.tell())
    if out.tell() != file.size:
        raise NoAnswerError("The registry ended its answer early")


def _require_rest(response: httpx.Response, start: int, file: FileRef) -> None:
    """Raises ClientError where the body does not go on at `start`."""
    try:
        begins = body_start(response.status_code, response.headers, start, file.size)
    except RangeError as error:
        hint = _BEGIN_ANEW if error.recoded else ""
        raise ClientError(f"{file.path}: {error}", code="bad_answer", hint=hint) from None
    if begins != start:
        text = f"{file.path}: the registry, or somebody on the way, sends the whole file in place of the rest"
        raise ClientError(text, code="bad_answer", hint=_BEGIN_ANEW)


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


def _silent(_what: str, _total: int, _start: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(ignore)


def choose_variants(manifest: Manifest, name: str | None = None, target: Target | None = None) -> tuple[Variant, ...]:
    """The variants of a version with this name and for this target; None: any.

    Raises:
        ClientError: there is none (`not_found`).
    """
    chosen = tuple(v for v in manifest.variants if name in (None, v.name) and (target is None or v.target is target))
    if not chosen:
        have = ", ".join(f"{v.name} for {v.target}" for v in manifest.variants)
        raise ClientError(f"{manifest.model}@{manifest.version} has no such variant; it has: {have}", code="not_found")
    return chosen


def pull(
    client: ApiClient,
    manifest: Manifest,
    variants: Sequence[Variant],
    directory: Path,
    *,
    progress: Progress = _silent,
    note: Callable[[str], None] = ignore,
) -> int:
    """Bring the files of some variants of a version. What is in the directory already and is right is not fetched.

    Args:
        client: The registry.
        manifest: The version's.
        variants: Which of its variants.
        directory: Made where it is not there.
        progress: Shows how far it is.
        note: Told of every cut, in a sentence.

    Returns:
        The bytes that came over the network.

    Raises:
        ClientError: a file is there with other content (`conflict`), there is no room (`insufficient_disk`), the
            directory cannot be written (`disk_error`), or as `download`. What was fetched stays; the same call goes on.
    """
    places = [(directory / variant.name / file.path, file) for variant in variants for file in variant.files]
    if manifest.card is not None:
        places.append((directory / manifest.card.path, manifest.card))
    try:
        came = sum(_bring(client, directory, place, file, progress=progress, note=note) for place, file in places)
        _write_manifest(directory, manifest)
    except OSError as error:
        raise ClientError(
            f"{error.filename or directory} cannot be written: {error.strerror}",
            code="disk_error",
            hint="What was pulled stays; repeat the command to go on.",
        ) from error
    return came


def _bring(
    client: ApiClient, directory: Path, place: Path, file: FileRef, *, progress: Progress, note: Callable[[str], None]
) -> int:
    """One file to its place; the bytes that came over the network."""
    if place.exists() or place.is_symlink():
        if place.is_file() and place.stat().st_size == file.size:
            with progress(f"checking {place.name}", file.size, 0) as at:
                if hash_file(place, at).digest == file.digest:
                    return 0
        raise ClientError(
            f"{place} is there with other content and is not overwritten",
            code="conflict",
            hint="Choose another directory, or remove that file.",
        )
    partial = directory / ".partial" / hex_of(file.digest)
    partial.parent.mkdir(parents=True, exist_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    start = partial.stat().st_size if partial.exists() else 0
    _require_room(directory, file, file.size - start)
    with progress(f"pulling {place.name}", file.size, min(start, file.size)) as at:
        came = download(client, file, partial, at, note)
    partial.replace(place)
    _sync_directory(place.parent)
    return came


def _require_room(directory: Path, file: FileRef, missing: int) -> None:
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if missing > free:
        raise ClientError(
            f"{file.path} needs {size_text(missing)} more, {directory} has {size_text(free)} free",
            code="insufficient_disk",
            hint="Free space, or choose another directory.",
        )


def _write_manifest(directory: Path, manifest: Manifest) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / ".manifest.json"
    with unfinished.open("wb") as out:
        out.write(manifest.canonical())
        out.flush()
        os.fsync(out.fileno())
    unfinished.replace(directory / "manifest.json")
    partial = directory / ".partial"
    if partial.is_dir() and not any(partial.iterdir()):
        partial.rmdir()
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
