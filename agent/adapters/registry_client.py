"""The registry over HTTP, as a device sees it: desired state, manifests, blobs, reports.

Only the registry's own paths are asked, redirects are not followed, every body is bounded, and nothing is believed
that has a digest to check it by. Each call tries once: the reconciler alone decides about trying again.

| answer | means |
|---|---|
| no answer, 5xx, 408, 425, 429 | `UnreachableError`: later, not before Retry-After |
| any other 3xx or 4xx | PermanentError registry_refused |
| 2xx that breaks the contract | TransientError bad_answer |
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from agent.adapters.part_file import Fill, PartFile
from agent.errors import PermanentError, TransientError
from registry.contracts.codes import DeploymentCode
from registry.contracts.digest import Digest, digest_of
from registry.contracts.manifest import MAX_MANIFEST_BYTES
from registry.contracts.messages import MAX_CONTROL_BYTES
from registry.contracts.paths import blob_path, desired_path, facts_path, manifest_path, reports_path
from registry.contracts.platforms import Platform

if TYPE_CHECKING:
    import httpx  # These two take 0.15 s to import: an agent that has all it needs starts without them.

    from registry.contracts.api.devices import DeviceReports

BUSY = frozenset({408, 425, 429})
MAX_RETRY_AFTER_S = 3600.0
MAX_PROBLEM_BYTES = 16 << 10
MAX_ANSWER_BYTES = 256 << 10
STALL_S = 60.0
STALL_BYTES = 64 << 10
"""A body that brings less than STALL_BYTES in STALL_S has failed: one byte at a time keeps no thread for ever."""


class UnreachableError(TransientError):
    """The registry cannot be had now. `retry_after_s` is its own wish; `progress`: some bytes came."""

    def __init__(self, message: str, *, retry_after_s: float = 0.0, progress: bool = False) -> None:
        super().__init__(DeploymentCode.REGISTRY_UNREACHABLE, message)
        self.retry_after_s = retry_after_s
        self.progress = progress


class RegistryClient:
    """Thread-safe: httpx.Client is. Connects at the first call."""

    def __init__(self, url: str, device: str, *, token: str | None, ca_file: str | None, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._device = device
        self._token = token
        self._ca_file = ca_file
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None

    def close(self) -> None:
        """Ends open connections, and with them downloads under way."""
        with self._lock:
            if self._client is not None:
                self._client.close()

    def desired(self, etag: str | None) -> tuple[bytes, str | None] | None:
        """The desired document and its ETag; None when it is still the one with `etag`."""
        headers = {"If-None-Match": etag} if etag else {}
        with self._send("GET", desired_path(self._device), headers) as answer:
            if answer.status_code == 304:
                return None
            return _bounded(answer, MAX_CONTROL_BYTES), answer.headers.get("etag")

    def manifest(self, digest: Digest) -> bytes:
        """The manifest's bytes; they have the digest.

        Raises:
            TransientError: manifest_mismatch, and as in the table above.
        """
        with self._send("GET", manifest_path(digest), {}) as answer:
            data = _bounded(answer, MAX_MANIFEST_BYTES)
        if digest_of(data) != digest:
            raise TransientError(
                DeploymentCode.MANIFEST_MISMATCH, f"the registry's manifest {digest} has digest {digest_of(data)}"
            )
        return data

    def put_facts(self, facts: Platform) -> None:
        """Tells what this host is."""
        with self._send("PUT", facts_path(self._device), _JSON, facts.canonical()):
            pass

    def post_reports(self, reports: DeviceReports) -> None:
        """Tells what would have gone over MQTT; the registry drops what it has seen."""
        with self._send("POST", reports_path(self._device), _JSON, reports.canonical()):
            pass

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
        with self._send("GET", blob_path(part.ref.digest), headers) as answer:
            _agree_on_range(answer, part)
            try:
                with _translated(self._url):
                    part.receive(_body(answer, part.ref.size - part.offset), cancel)
            except UnreachableError as error:
                raise UnreachableError(error.message, progress=part.offset > start) from error

    def call(
        self, method: str, path: str, content: bytes | Iterator[bytes] = b"", headers: dict[str, str] | None = None
    ) -> bytes:
        """Any other of the registry's calls: the body of its answer, MAX_ANSWER_BYTES at most.

        `content` in pieces needs a Content-Length among the headers; it cannot be sent a second time.
        """
        with self._send(method, path, headers or _JSON, content) as answer:
            return _bounded(answer, MAX_ANSWER_BYTES)

    @contextlib.contextmanager
    def _send(
        self, method: str, path: str, headers: dict[str, str], content: bytes | Iterator[bytes] | None = None
    ) -> Iterator[httpx.Response]:
        with _translated(self._url):
            with self._connected().stream(method, path, headers=headers, content=content) as answer:
                if not (answer.is_success or answer.status_code == 304):
                    raise _refusal(answer, f"{method} {path}")
                yield answer

    def _connected(self) -> httpx.Client:
        import httpx  # noqa: PLC0415 - see above

        with self._lock:
            if self._client is None:
                headers = {"Accept-Encoding": "identity", "User-Agent": "modelfleet-agent"}
                if self._token:
                    headers["Authorization"] = f"Bearer {self._token}"
                try:
                    verify: Any = self._url.startswith("https")  # Without it no certificates are read: 20 ms less.
                    if verify and self._ca_file:
                        verify = httpx.create_ssl_context(verify=self._ca_file)
                except OSError as error:  # ssl.SSLError is one, too
                    text = f"registry.ca_file {self._ca_file} cannot be used: {error}"
                    raise UnreachableError(text) from None
                self._client = httpx.Client(
                    base_url=self._url, headers=headers, timeout=self._timeout_s, verify=verify, follow_redirects=False
                )
            return self._client


_JSON = {"Content-Type": "application/json"}


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    """Every error of the network becomes ours."""
    import httpx  # noqa: PLC0415 - see above

    try:
        yield
    except (httpx.TransportError, httpx.DecodingError, httpx.StreamError) as error:
        raise UnreachableError(f"{url}: {type(error).__name__}: {error}") from error
    except httpx.InvalidURL as error:
        raise PermanentError("bad_config", f"registry.url {url!r}: {error}") from error


def _refusal(answer: httpx.Response, what: str) -> TransientError | PermanentError:
    status = answer.status_code
    text = f"{what}: {status} {answer.reason_phrase}: {_excerpt(answer)}"
    if status >= 500 or status in BUSY:
        return UnreachableError(text, retry_after_s=_retry_after(answer.headers.get("retry-after", "")))
    if 300 <= status < 400:
        text += "; redirects are not followed, set registry.url to the address itself"
    return PermanentError(DeploymentCode.REGISTRY_REFUSED, text)


def _excerpt(answer: httpx.Response) -> str:
    """What an error's body says: `detail` and `errors` of a problem (RFC 9457), else its beginning; printable."""
    data = next(answer.iter_bytes(MAX_PROBLEM_BYTES), b"")
    try:
        problem = json.loads(data)
        text = "; ".join([problem["detail"], *problem.get("errors", ())])
    except (ValueError, TypeError, KeyError, AttributeError):
        text = data[:300].decode(errors="replace")
    return "".join(c if c.isprintable() else " " for c in text[:600])


def _retry_after(value: str) -> float:
    """Seconds from a Retry-After header, which holds seconds or a date; 0 when it holds neither."""
    try:
        seconds = float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _bounded(answer: httpx.Response, limit: int) -> bytes:
    """The whole body, when it is not longer than `limit`."""
    data = bytearray()
    for chunk in answer.iter_bytes():
        data += chunk
        if len(data) > limit:
            raise _bad_answer(f"{answer.url.path}: the body is longer than {limit} bytes")
    return bytes(data)


def _agree_on_range(answer: httpx.Response, part: PartFile) -> None:
    """Makes `part.offset` the position at which this body starts.

    Raises:
        TransientError: the answer is about another range or another size than the manifest says.
    """
    size = part.ref.size
    if answer.status_code == 206:
        if answer.headers.get("content-range") != f"bytes {part.offset}-{size - 1}/{size}":
            raise _bad_answer(f"{part.ref.path}: asked for bytes {part.offset}- of {size}, got another range")
    elif answer.status_code == 200:
        part.restart()
    else:
        raise _bad_answer(f"{part.ref.path}: status {answer.status_code} for a blob")
    length = answer.headers.get("content-length")
    if length is not None and length != str(size - part.offset):
        raise _bad_answer(f"{part.ref.path}: {length} bytes are to come, the manifest says {size - part.offset}")


def _bad_answer(text: str) -> TransientError:
    return TransientError(DeploymentCode.BAD_ANSWER, text)


def _body(answer: httpx.Response, size: int) -> Fill:
    """Reads the body into the caller's buffer.

    httpx brings 64 KiB at a time and copies each of them. So only its first piece is taken: that empties its buffer,
    and the rest is read from the socket itself, which `network_stream` hands out for such things. A chunked body has
    marks between its pieces and stays with httpx.
    """
    pieces = answer.iter_raw()
    waiting = memoryview(b"")
    direct = "content-length" in answer.headers
    watch = _StallWatch()
    taken = 0

    def fill(room: memoryview) -> int:
        nonlocal waiting, taken
        if not waiting and direct and taken:
            count = _from_socket(answer, room[: size - taken])
        else:
            if not waiting:
                waiting = memoryview(next(pieces, b""))
            count = min(len(waiting), len(room))
            room[:count] = waiting[:count]
            waiting = waiting[count:]
        taken += count
        watch.saw(count)
        return count

    return fill


def _from_socket(answer: httpx.Response, room: memoryview) -> int:
    if not room:
        return 0
    try:
        count = int(answer.extensions["network_stream"].get_extra_info("socket").recv_into(room))
    except OSError as error:
        raise UnreachableError(f"{answer.url.path}: the connection broke: {error}") from error
    if count == 0:
        raise UnreachableError(f"{answer.url.path}: the connection ended before the body did")
    return count


class _StallWatch:
    """Raises UnreachableError when too little comes in too long a time."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._bytes = 0

    def saw(self, count: int) -> None:
        self._bytes += count
        now = time.monotonic()
        if now - self._since > STALL_S:
            if self._bytes < STALL_BYTES:
                raise UnreachableError(f"only {self._bytes} bytes came in {STALL_S:.0f} s")
            self._since, self._bytes = now, 0
