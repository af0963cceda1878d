"""The registry's HTTP API as the commands use it: typed answers, problems as errors, every wait bounded.

Only what may safely happen twice is tried again after a lost answer; a connection that was refused is
tried again for every method, because nothing was sent. Redirects are never followed: a token goes to
the registry that was named, or nowhere.

What a proxy or a portal answers in the registry's place says nothing about what was asked: `ForeignAnswerError`,
tried again like an answer that was lost.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import unquote

import httpx
from pydantic import ValidationError

from registry.client.address import Address
from registry.client.errors import ClientError, ForeignAnswerError, NoAnswerError, ProblemError, own_version
from registry.contracts.api.answers import MAX_PAGE, PROBLEM_TYPE, STATUS_OF_CODE, Page
from registry.contracts.backoff import Backoff
from registry.contracts.wire import Wire
from registry.httpclient.proxies import ProxyFault, proxy_for
from registry.httpclient.transport import LIMIT, HttpTransport, Limit
from registry.httpclient.verdicts import BYTES, JSON, foreign_text, media_type, problem_of

MAX_ANSWER_BYTES = 32 << 20
"""A page of 500 devices with their facts is about 2 MB."""
ANSWER_DEADLINE_S = 60.0
STREAM_LIMIT_S = 330.0
"""What is sent in pieces makes at least 64 KiB in so long; a big blob is made durable before its answer."""
RETRIES = Backoff(first_s=0.2, cap_s=10.0, limit=4)
MAX_LISTED = 100_000
NO_SUCH_OPERATION = (404, 405)
"""With HTTP's own words as the reason: nothing was looked for. What was looked for and is not there is named."""
MAX_EMPTY = 10_000
"""Pages without an item, one after another: a list with filters has them where nothing fits for long."""
Asked = str | int | bool | Sequence[str] | None
"""A part of a query; a sequence is repeated, None is left out."""
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)

W = TypeVar("W", bound=Wire)


@dataclass(frozen=True)
class ApiAnswer:
    """A good answer, read whole."""

    what: str
    """Method and path, for messages."""
    status: int
    etag: str
    kind: str
    """The body's media type; empty: it has none."""
    body: bytes

    def decode(self, of: type[W]) -> W:
        """The document in the body.

        Raises:
            ClientError: it is not what the contract says.
        """
        try:
            return of.model_validate_json(self.body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            raise ClientError(
                f"The registry's answer to {self.what} is not what its contract says: {where}: {first['msg']}",
                code="bad_answer",
                hint="Is this address really a Modelfleet registry, and of this version?",
            ) from error


class ApiClient:
    """One registry. Close it, or use it in `with`.

    Args:
        address: Where it is, and the token.
        authorities: Whom its certificate has to be from. None: the system's, and those that SSL_CERT_FILE and
            SSL_CERT_DIR name.
    """

    def __init__(self, address: Address, authorities: ssl.SSLContext | None = None) -> None:
        self.address = address
        headers = {"accept": "application/json"}
        if address.token:
            headers["authorization"] = f"Bearer {address.token}"
        self._http = httpx.Client(
            base_url=address.url,
            headers=headers,
            timeout=_TIMEOUT,
            transport=_transport(address.url, authorities),
            trust_env=False,  # the transport has looked at what the environment says of proxies
        )

    def __enter__(self) -> ApiClient:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closed."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, of: type[W], **query: Asked) -> W:
        """One document.

        Raises:
            NoAnswerError: no answer.
            ProblemError: the registry refused; `code` says why.
            ClientError: the answer is not what the contract says.
        """
        return self.call("GET", path, query=query, repeatable=True).decode(of)

    def find(self, path: str, of: type[W]) -> W | None:
        """One document, or None when it is not there."""
        try:
            return self.get(path, of)
        except ProblemError as problem:
            if problem.code == "not_found":
                return None
            raise

    def items(self, path: str, of: type[W], limit: int = MAX_LISTED, **query: Asked) -> list[W]:
        """A list, page by page, at most `limit` items."""
        return list(self.each(path, of, limit, **query))

    def each(self, path: str, of: type[W], limit: int = MAX_LISTED, **query: Asked) -> Iterator[W]:
        """The same, each item as soon as its page is there. A page may be empty and have a next one; of such pages in
        a row MAX_EMPTY are read.

        Raises:
            ClientError: as `get` does, or the list does not come to an end.
        """
        cursor: str | None = None
        left, empty = limit, 0
        while left > 0:
            page = self.get(path, Page[of], **query, cursor=cursor, limit=min(MAX_PAGE, left))  # type: ignore[valid-type]
            yield from page.items[:left]
            left -= len(page.items)
            empty = 0 if page.items else empty + 1
            if page.next is None:
                return
            if page.next == cursor or empty > MAX_EMPTY:
                raise ClientError(f"The registry's list {path} does not come to an end", code="bad_answer")
            cursor = page.next

    def send(
        self,
        method: str,
        path: str,
        body: Wire | None = None,
        *,
        headers: dict[str, str] | None = None,
        repeatable: bool = False,
    ) -> ApiAnswer:
        """A change. `repeatable`: doing it twice is the same as once, so that a lost answer is no harm."""
        content = None if body is None else body.canonical()
        headers = {"content-type": "application/json", **(headers or {})} if content is not None else headers
        return self.call(method, path, content=content, headers=headers, repeatable=repeatable)

    def change(self, method: str, path: str, body: Wire | None, of: type[W], *, repeatable: bool = False) -> W:
        """A change that answers a document."""
        return self.send(method, path, body, repeatable=repeatable).decode(of)

    def exists(self, path: str) -> bool:
        """Is the blob there, under the digest that the path ends with? (HEAD)"""
        try:
            answer = self.call("HEAD", path, repeatable=True)
        except ProblemError as problem:
            if problem.code == "not_found":
                return False
            raise
        if answer.etag.strip('"') != unquote(path.rpartition("/")[2]):
            raise ForeignAnswerError(f"{answer.what}: {foreign_text(answer.status, answer.kind, b'')}")
        return True

    def call(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool = False,
        query: Mapping[str, Asked] | None = None,
        tries: int | None = None,
        **request: Any,
    ) -> ApiAnswer:
        """One request with retries, `tries` in all; raises as `get` does. `request`: content, headers, timeout, as
        httpx takes them."""
        params = {key: value for key, value in (query or {}).items() if value is not None}
        attempt = 1
        while True:
            try:
                with self._exchange(method, path, params=params, **request) as response:
                    return self._answer(response)
            except ClientError as error:
                if attempt == tries or RETRIES.exhausted(attempt) or not _may_repeat(error, repeatable=repeatable):
                    raise
            time.sleep(RETRIES.delay(attempt))
            attempt += 1

    @contextmanager
    def download(self, path: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """A 200 or 206 whose body the caller reads; no retries. Raises as `get` does, also while it is read."""
        with self._exchange("GET", path, headers={"accept": "*/*", **headers}) as response:
            if response.status_code not in (200, 206):
                self._answer(response)
            if media_type(response.headers.get("content-type")) not in (BYTES, ""):
                raise _foreign(response, b"")
            yield response

    @contextmanager
    def _exchange(self, method: str, path: str, **request: Any) -> Iterator[httpx.Response]:
        _require_names(path)
        limit = Limit(STREAM_LIMIT_S if "timeout" in request else ANSWER_DEADLINE_S)
        try:
            with self._http.stream(method, path, extensions={LIMIT: limit}, **request) as response:
                yield response
        except httpx.TimeoutException as error:
            raise NoAnswerError(f"The registry at {self.address.url} did not answer in time") from error
        except httpx.HTTPError as error:
            raise NoAnswerError(
                f"The registry at {self.address.url} cannot be reached: {str(error) or type(error).__name__}",
                hint="Is it running (registry serve)? Another address: --registry URL or MODELFLEET_REGISTRY.",
            ) from error

    def _answer(self, response: httpx.Response) -> ApiAnswer:
        answer = ApiAnswer(
            what=f"{response.request.method} {response.request.url.path}",
            status=response.status_code,
            etag=response.headers.get("etag", ""),
            kind=media_type(response.headers.get("content-type")),
            body=_read_bounded(response),
        )
        if response.request.method == "HEAD":
            return _of_head(answer, response)
        if answer.status >= 300:
            raise _problem(answer, response)
        if answer.kind != JSON and (answer.status != 204 or answer.body):
            raise _foreign(response, answer.body)
        return answer


def _transport(url: str, authorities: ssl.SSLContext | None) -> HttpTransport:
    """Raises ClientError: the environment names a proxy that cannot be used, or authorities that are none."""
    try:
        proxy = proxy_for(url, os.environ)
        secure = url.startswith("https:")
        proxied = proxy is not None and proxy.scheme == "https"
        if authorities is None and (secure or proxied):
            authorities = ssl.create_default_context()
        return HttpTransport(authorities if secure else None, proxy, authorities)
    except ProxyFault as fault:
        raise ClientError(str(fault), code="bad_proxy") from fault
    except OSError as error:
        text = f"The list of certificate authorities cannot be read: {error}"
        raise ClientError(text, code="bad_authorities", hint="See SSL_CERT_FILE and SSL_CERT_DIR.") from error


def _require_names(path: str) -> None:
    """Raises ClientError for a level that a server would take as the way to something else: empty, `.`, `..`, `a/b`.

    Every other bad name reaches the registry, which refuses it with the same code.
    """
    for name in map(unquote, path.split("/")[1:]):
        if name in ("", ".", "..") or "/" in name:
            fault = (
                f"{name!r} is no name: a name has 1 to 64 of a-z 0-9 . _ - and begins and ends with a letter or digit"
            )
            raise ClientError("The request breaks a rule of the API.", code="invalid", errors=(fault,))


def _may_repeat(error: ClientError, *, repeatable: bool) -> bool:
    """A refused connection cost nothing; one that hangs has cost a whole timeout already, and would again."""
    cause = error.__cause__
    if isinstance(cause, (httpx.ConnectError, httpx.ConnectTimeout)):
        return True
    return repeatable and error.transient and not isinstance(cause, httpx.TimeoutException)


def _read_bounded(response: httpx.Response) -> bytes:
    deadline = time.monotonic() + ANSWER_DEADLINE_S
    body = bytearray()
    for part in response.iter_bytes():
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise ClientError(f"The registry answered more than {MAX_ANSWER_BYTES} bytes", code="bad_answer")
        if time.monotonic() > deadline:
            raise NoAnswerError(f"The registry took over {ANSWER_DEADLINE_S:.0f} s to answer")
    return bytes(body)


def _problem(answer: ApiAnswer, response: httpx.Response) -> ProblemError | ForeignAnswerError:
    problem = problem_of(answer.status, answer.kind, answer.body)
    if problem is None:
        return _foreign(response, answer.body)
    text = problem.detail or problem.title
    if answer.status in NO_SUCH_OPERATION and text == HTTPStatus(answer.status).phrase:
        own = own_version()
        return ProblemError(
            f"The registry has no {answer.what}: it is older than this program",
            status=answer.status,
            code="method_not_allowed",
            hint=f"Upgrade the registry to {f'version {own}' if own else 'the version of this program'} or later; "
            "`registry --version` shows both versions.",
        )
    return ProblemError(text, status=answer.status, code=problem.code, errors=problem.errors)


def _of_head(answer: ApiAnswer, response: httpx.Response) -> ApiAnswer:
    """It has no body: a refusal is the registry's by its content type, and its code follows from the status."""
    if answer.status < 300:
        return answer
    code = next((code for code, status in STATUS_OF_CODE.items() if status == answer.status), None)
    if answer.kind != PROBLEM_TYPE or code is None:
        raise _foreign(response, b"")
    raise ProblemError(f"{answer.what} was refused with HTTP {answer.status}", status=answer.status, code=code)


def _foreign(response: httpx.Response, body: bytes) -> ForeignAnswerError:
    what = f"{response.request.method} {response.request.url.path}"
    headers = response.headers
    said = foreign_text(response.status_code, headers.get("content-type"), body, headers.get("location", ""))
    return ForeignAnswerError(f"{what}: {said}")
