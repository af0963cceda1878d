"""The registry over HTTP, as a device sees it: desired state, manifests, blobs, reports.

Only the registry's own paths are asked, redirects are not followed, every body is bounded, every exchange has a
deadline, and nothing is believed that has a digest to check it by. Each call tries once: the reconciler alone decides
about trying again. What an answer means: `registry_answers`.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from agent.adapters.disk.part_file import Fill, PartFile
from agent.adapters.network.registry_answers import (
    UnreachableError,
    bad_answer,
    bounded,
    foreign,
    outage,
    refusal,
    require_object,
    require_type,
    translated,
)
from agent.adapters.network.registry_connection import RegistryConnection
from agent.errors import TransientError
from registry.contracts.catalogue.manifest import MAX_MANIFEST_BYTES
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.messages import MAX_CONTROL_BYTES
from registry.contracts.fit.platforms import Platform
from registry.contracts.paths import blob_path, desired_path, facts_path, manifest_path, reports_path
from registry.contracts.wire import Digest, digest_of
from registry.httpclient.verdicts import BYTES, JSON

if TYPE_CHECKING:
    import httpx  # These two take 0.15 s to import: an agent that has all it needs starts without them.

    from registry.contracts.api.devices import DeviceReports

MAX_ANSWER_BYTES = 256 << 10
DOWNLOAD_LIMIT_S = 60.0
"""A blob that brings less than 64 KiB in so long has failed: one byte at a time keeps no thread for ever."""
DOWNLOAD_READ = 512 << 10
"""Bytes of a blob that are read at once."""
UPLOAD_LIMIT_S = 330.0
"""As long for what is sent in pieces: the answer comes after the registry made it durable."""


class RegistryClient:
    """Thread-safe. Connects at the first call."""

    def __init__(
        self,
        url: str,
        device: str,
        *,
        token: str | Callable[[], str | None] | None,
        ca_file: str | None,
        timeout_s: float,
    ) -> None:
        """`token`: the credential, or what reads it for each exchange."""
        self._url = url.rstrip("/")
        self._device = device
        read = token if callable(token) else lambda: token
        self._connection = RegistryConnection(url, token=read, ca_file=ca_file, timeout_s=timeout_s)

    def close(self) -> None:
        """Ends open connections, and with them downloads under way."""
        self._connection.close()

    def desired(self, etag: str | None) -> tuple[bytes, str | None] | None:
        """The desired document and its ETag; None when it is still the one with `etag`."""
        headers = {"Cache-Control": "no-cache", **({"If-None-Match": etag} if etag else {})}
        with self._send("GET", desired_path(self._device), headers) as answer:
            if answer.status_code == 304:
                if etag is None:
                    raise UnreachableError(f"{answer.url.path}: 304 for a question that named no ETag")
                return None
            require_type(answer, JSON)
            body = bounded(answer, MAX_CONTROL_BYTES)
            require_object(answer, body, "device")
            return body, _etag(answer, body)

    def manifest(self, digest: Digest) -> bytes:
        """The manifest's bytes; they have the digest.

        Raises:
            TransientError: manifest_mismatch, and as `registry_answers` says.
        """
        with self._send("GET", manifest_path(digest), {}) as answer:
            require_type(answer, JSON)
            data = bounded(answer, MAX_MANIFEST_BYTES)
        if digest_of(data) != digest:
            raise TransientError(
                DeploymentCode.MANIFEST_MISMATCH, f"the registry's manifest {digest} has digest {digest_of(data)}"
            )
        return data

    def put_facts(self, facts: Platform) -> None:
        """Tells what this host is."""
        self._tell("PUT", facts_path(self._device), facts.canonical())

    def post_reports(self, reports: DeviceReports) -> bool:
        """Tells what would have gone over MQTT; the registry drops what it has seen. True: it asks for the facts."""
        with self._send("POST", reports_path(self._device), _JSON, reports.canonical()) as answer:
            if answer.status_code == 204:
                return False
            body = bounded(answer, MAX_CONTROL_BYTES)
            require_object(answer, body, "facts_wanted")
            return bool(json.loads(body)["facts_wanted"])

    def _tell(self, method: str, path: str, content: bytes) -> None:
        """Nothing counts as told that the registry did not take: it says so with 204."""
        with self._send(method, path, _JSON, content) as answer:
            if answer.status_code != 204:
                raise foreign(answer)

    def download(self, part: PartFile, cancel: threading.Event) -> None:
        """Takes the rest of a blob, from `part.offset` on. `part.check` says whether it is right.

        Raises:
            UnreachableError: also when the body ends early; what came is kept.
            StepCancelledError: `cancel` was set.
        """
        headers = {}
        if part.offset:
            headers = {"Range": f"bytes={part.offset}-", "If-Range": f'"{part.ref.digest}"'}
        start = part.offset
        with self._send(
            "GET", blob_path(part.ref.digest), headers, limit_s=DOWNLOAD_LIMIT_S, body_read=DOWNLOAD_READ
        ) as answer:
            require_type(answer, BYTES)
            _agree_on_range(answer, part)
            try:
                part.receive(_body(answer, self._url), cancel)
            except UnreachableError as error:
                raise UnreachableError(error.message, progress=part.offset > start) from error

    def call(
        self, method: str, path: str, content: bytes | Iterator[bytes] = b"", headers: dict[str, str] | None = None
    ) -> bytes:
        """Any other of the registry's calls: the body of its answer, MAX_ANSWER_BYTES at most.

        `content` in pieces needs a Content-Length among the headers; it cannot be sent a second time.
        """
        limit_s = None if isinstance(content, bytes) else UPLOAD_LIMIT_S
        with self._send(method, path, headers or _JSON, content, limit_s=limit_s) as answer:
            require_type(answer, JSON)
            body = bounded(answer, MAX_ANSWER_BYTES)
            require_object(answer, body)
            return body

    @contextlib.contextmanager
    def _send(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        content: bytes | Iterator[bytes] | None = None,
        **limits: Any,
    ) -> Iterator[httpx.Response]:
        """`limits`: as `RegistryConnection.stream` takes them."""
        with translated(self._url), self._connection.stream(method, path, headers, content, **limits) as answer:
            if not (answer.is_success or answer.status_code == 304):
                raise refusal(answer, f"{method} {path}")
            yield answer


_JSON = {"Content-Type": "application/json"}


def _etag(answer: httpx.Response, body: bytes) -> str | None:
    """The document's: its digest. A middlebox may leave it out or make it weak; another one is of another body."""
    said = answer.headers.get("etag")
    if said is not None and said.removeprefix("W/") != f'"{digest_of(body)}"':
        raise foreign(answer, body)
    return f'"{digest_of(body)}"' if said is not None else None


def _agree_on_range(answer: httpx.Response, part: PartFile) -> None:
    """Makes `part.offset` the position at which this body starts.

    Raises:
        TransientError: the answer is about another range or another size than the manifest says.
    """
    size = part.ref.size
    recoded = "content-encoding" in answer.headers
    if answer.status_code == 206:
        if recoded:
            part.restart()  # a range of something recoded cannot be put together: the next try asks for the whole
            raise UnreachableError(f"{part.ref.path}: somebody on the way recodes what the registry sends")
        if answer.headers.get("content-range") != f"bytes {part.offset}-{size - 1}/{size}":
            raise bad_answer(f"{part.ref.path}: asked for bytes {part.offset}- of {size}, got another range")
    elif answer.status_code == 200:
        part.restart()
    else:
        raise bad_answer(f"{part.ref.path}: status {answer.status_code} for a blob")
    length = answer.headers.get("content-length")
    if length is not None and not recoded and length != str(size - part.offset):
        raise bad_answer(f"{part.ref.path}: {length} bytes are to come, the manifest says {size - part.offset}")


def _body(answer: httpx.Response, url: str) -> Fill:
    """Reads the body into the caller's buffer; decoded, should somebody on the way have encoded it."""
    encoded = "content-encoding" in answer.headers
    pieces = answer.iter_bytes() if encoded else iter(cast("Iterable[bytes]", answer.stream))
    waiting = memoryview(b"")
    fault: UnreachableError | None = None

    def fill(room: memoryview) -> int:
        nonlocal waiting, fault
        if not waiting:
            if fault is not None:
                raise fault  # who has kept what came before it asks once more
            try:
                waiting = memoryview(next(pieces, b""))
            except Exception as error:
                fault = outage(error, url)
                if fault is None:
                    raise
                raise fault from error
        count = min(len(waiting), len(room))
        room[:count] = waiting[:count]
        waiting = waiting[count:]
        return count

    return fill
