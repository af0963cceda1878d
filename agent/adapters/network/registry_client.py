"""The registry over HTTP, as a device sees it: desired state, manifests, blobs, reports.

Only the registry's own paths are asked, redirects are not followed, every body is bounded, every exchange has a
deadline, and nothing is believed that has a digest to check it by. Each call tries once: the reconciler alone decides
about trying again. What an answer means: `registry_answers`.

The token's file is read for every exchange, and a certificate authority's file that has changed on the disk makes new
connections: who renews one needs no restart. A file that is not there for a moment, while it is being replaced, leaves
what was read last.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, cast

from agent.adapters.disk.checked_files import Fill, PartFile
from agent.adapters.network.registry_answers import (
    RegistryRefusedError,
    UnreachableError,
    bad_answer,
    bounded,
    foreign,
    json_object,
    refusal,
    require_type,
    translated,
)
from agent.errors import PermanentError, TransientError
from registry.certificates import Fingerprint, fingerprint
from registry.contracts.catalogue.manifest import MAX_MANIFEST_BYTES
from registry.contracts.codes import DeploymentCode
from registry.contracts.device.messages import MAX_CONTROL_BYTES
from registry.contracts.fit.platforms import Platform
from registry.contracts.paths import blob_path, desired_path, facts_path, manifest_path, reports_path, trust_file_path
from registry.contracts.wire import Digest, digest_of
from registry.httpclient.ranges import RangeError, body_start
from registry.httpclient.verdicts import BYTES, JSON

if TYPE_CHECKING:
    import httpx  # These two take 0.15 s to import: an agent that has all it needs starts without them.

    from registry.contracts.api.devices import DeviceReports

MAX_ANSWER_BYTES = 256 << 10
DEADLINE_FACTOR = 1.5
"""A short exchange may take so many times what the registry may be silent for, all in all."""
DOWNLOAD_LIMIT_S = 60.0
"""A blob that brings less than 64 KiB in so long has failed: one byte at a time keeps no thread for ever."""
DOWNLOAD_READ = 512 << 10
"""Bytes of a blob that are read at once."""
METADATA_LIMIT_S = 60.0
"""A file of signed metadata that is not whole by then has failed, whatever progress it makes."""
UPLOAD_LIMIT_S = 330.0
"""As long for what is sent in pieces: the answer comes after the registry made it durable."""


class _Shared:
    """A client and how many exchanges use it; `retired`: the last one closes it."""

    def __init__(self, client: httpx.Client, made_of: Fingerprint) -> None:
        self.client = client
        self.made_of = made_of
        self.users = 0
        self.retired = False


class RegistryConnection:
    """Thread-safe. Connects at the first exchange."""

    def __init__(self, url: str, *, token: Callable[[], str | None], ca_file: str | None, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._ca_file = ca_file
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._shared: _Shared | None = None

    def close(self) -> None:
        """Ends open connections, and with them downloads under way."""
        with self._lock:
            if self._shared is not None:
                self._shared.client.close()

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        content: bytes | Iterator[bytes] | None = None,
        *,
        limit_s: float | None = None,
        body_read: int = 0,
    ) -> Iterator[httpx.Response]:
        """One exchange with success, or 304; the caller reads the body of its answer.

        Args:
            method: HTTP's.
            path: Below the registry's address.
            headers: Besides those that every request has.
            content: The request's body.
            limit_s: As `registry.httpclient.transport.Limit`; None: that of short exchanges.
            body_read: As there.

        Raises:
            AgentError: as `registry_answers` says, also what happens while the body is read.
            UnreachableError: it cannot even be tried: the token, the authority or the proxy cannot be used.
        """
        from registry.httpclient.transport import LIMIT, Limit  # noqa: PLC0415 - see above

        credential = self._credential()
        limit = Limit(self._timeout_s * DEADLINE_FACTOR if limit_s is None else limit_s, body_read=body_read)
        with translated(self.url):
            shared = self._take()
            try:
                with shared.client.stream(
                    method, path, headers={**headers, **credential}, content=content, extensions={LIMIT: limit}
                ) as answer:
                    if not (answer.is_success or answer.status_code == 304):
                        raise refusal(answer, f"{method} {path}")
                    yield answer
            finally:
                self._give_back(shared)

    def _credential(self) -> dict[str, str]:
        try:
            token = self._token()
        except PermanentError as error:
            raise UnreachableError(error.message) from None
        if not token:
            return {}
        if not (token.isascii() and token.isprintable() and " " not in token):
            raise UnreachableError("the registry's token has characters that no token has; is it the right file?")
        return {"Authorization": f"Bearer {token}"}

    def _take(self) -> _Shared:
        with self._lock:
            shared, made_of = self._shared, fingerprint(self._ca_file)
            if shared is None:
                shared = self._shared = _Shared(self._make(), made_of)
            elif made_of not in (None, shared.made_of):
                with contextlib.suppress(UnreachableError):  # half written: the next exchange looks again
                    fresh = _Shared(self._make(), made_of)
                    shared.retired = True
                    self._close_unused(shared)
                    shared = self._shared = fresh
            shared.users += 1
            return shared

    def _give_back(self, shared: _Shared) -> None:
        with self._lock:
            shared.users -= 1
            self._close_unused(shared)

    @staticmethod
    def _close_unused(shared: _Shared) -> None:
        if shared.retired and shared.users == 0:
            shared.client.close()

    def _make(self) -> httpx.Client:
        import httpx  # noqa: PLC0415 - see above

        from registry.httpclient.proxies import ProxyFault, proxy_for  # noqa: PLC0415 - with httpx
        from registry.httpclient.transport import HttpTransport  # noqa: PLC0415 - with httpx

        try:
            proxy = proxy_for(self.url, os.environ)
            secure = proxy is not None and proxy.scheme == "https"
            transport = HttpTransport(
                self._authorities(alone=True) if self.url.startswith("https:") else None,
                proxy,
                self._authorities(alone=False) if secure else None,
            )
            return httpx.Client(
                transport=transport,
                base_url=self.url,
                headers={"Accept-Encoding": "identity", "User-Agent": "modelfleet-agent"},
                timeout=self._timeout_s,
                follow_redirects=False,
                trust_env=False,
            )
        except OSError as error:  # ssl.SSLError is one, too
            file = f"registry.ca_file {self._ca_file}" if self._ca_file else "the system's list of authorities"
            raise UnreachableError(f"{file} cannot be used: {error}") from None
        except (ProxyFault, httpx.InvalidURL) as error:
            raise UnreachableError(str(error)) from None

    def _authorities(self, *, alone: bool) -> ssl.SSLContext:
        """Whom certificates have to be from: with a file of its own from that, for a proxy from the usual ones, too."""
        import httpx  # noqa: PLC0415 - see above

        if self._ca_file and alone:
            return ssl.create_default_context(cafile=self._ca_file)
        context = httpx.create_ssl_context()
        if self._ca_file:
            context.load_verify_locations(self._ca_file)
        return context


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
        self._device = device
        read = token if callable(token) else lambda: token
        self._connection = RegistryConnection(url, token=read, ca_file=ca_file, timeout_s=timeout_s)
        self._stream = self._connection.stream
        self.close = self._connection.close

    def desired(self, etag: str | None) -> tuple[bytes, str | None, str] | None:
        """The desired document, its ETag and its `traceparent`; None when it is still the one with `etag`."""
        headers = {"Cache-Control": "no-cache", **({"If-None-Match": etag} if etag else {})}
        with self._stream("GET", desired_path(self._device), headers) as answer:
            if answer.status_code == 304:
                if etag is None:
                    raise UnreachableError(f"{answer.url.path}: 304 for a question that named no ETag")
                return None
            body = json_object(answer, MAX_CONTROL_BYTES, "device")
            return body, _etag(answer, body), answer.headers.get("traceparent", "")

    def manifest(self, digest: Digest) -> bytes:
        """The manifest's bytes; they have the digest.

        Raises:
            TransientError: manifest_mismatch, and as `registry_answers` says.
        """
        with self._stream("GET", manifest_path(digest), {}) as answer:
            require_type(answer, JSON)
            data = bounded(answer, MAX_MANIFEST_BYTES)
        if digest_of(data) != digest:
            raise TransientError(
                DeploymentCode.MANIFEST_MISMATCH, f"the registry's manifest {digest} has digest {digest_of(data)}"
            )
        return data

    def signed_metadata(self, repository: str, name: str, limit: int) -> bytes | None:
        """A file of signed metadata, of at most `limit` bytes, which nobody has verified yet; None: the registry says
        that there is none.

        Raises:
            AgentError: as `registry_answers` says; also when it is longer, or not whole in METADATA_LIMIT_S.
        """
        until = time.monotonic() + METADATA_LIMIT_S
        try:
            with self._stream("GET", trust_file_path(repository, name), {"Cache-Control": "no-cache"}) as answer:
                require_type(answer, JSON)
                return bounded(answer, limit, until)
        except RegistryRefusedError as error:
            if error.problem == "not_found":
                return None
            raise

    def put_facts(self, facts: Platform) -> None:
        """Tells what this host is. Nothing counts as told that the registry did not take: it says so with 204."""
        with self._stream("PUT", facts_path(self._device), _JSON, facts.canonical()) as answer:
            if answer.status_code != 204:
                raise foreign(answer)

    def post_reports(self, reports: DeviceReports) -> bool:
        """Tells what would have gone over MQTT; the registry drops what it has seen. True: it asks for the facts."""
        with self._stream("POST", reports_path(self._device), _JSON, reports.canonical()) as answer:
            if answer.status_code == 204:
                return False
            return bool(json.loads(json_object(answer, MAX_CONTROL_BYTES, "facts_wanted"))["facts_wanted"])

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
        with self._stream(
            "GET", blob_path(part.ref.digest), headers, limit_s=DOWNLOAD_LIMIT_S, body_read=DOWNLOAD_READ
        ) as answer:
            require_type(answer, BYTES)
            _agree_on_range(answer, part)
            try:
                part.receive(_body(answer, self._connection.url), cancel)
            except UnreachableError as error:
                raise UnreachableError(error.message, progress=part.offset > start) from error

    def call(
        self, method: str, path: str, content: bytes | Iterator[bytes] = b"", headers: dict[str, str] | None = None
    ) -> bytes:
        """Any other of the registry's calls: the body of its answer, MAX_ANSWER_BYTES at most.

        `content` in pieces needs a Content-Length among the headers; it cannot be sent a second time.
        """
        limit_s = None if isinstance(content, bytes) else UPLOAD_LIMIT_S
        with self._stream(method, path, headers or _JSON, content, limit_s=limit_s) as answer:
            return json_object(answer, MAX_ANSWER_BYTES)


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
    try:
        start = body_start(answer.status_code, answer.headers, part.offset, part.ref.size)
    except RangeError as error:
        text = f"{part.ref.path}: {error}"
        if error.recoded:
            part.restart()  # the next try asks for the whole
            raise UnreachableError(text) from None
        raise bad_answer(text) from None
    if start == 0:
        part.restart()


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
                with translated(url):
                    waiting = memoryview(next(pieces, b""))
            except UnreachableError as error:
                fault = error
                raise
        count = min(len(waiting), len(room))
        room[:count] = waiting[:count]
        waiting = waiting[count:]
        return count

    return fill
