"""The registry's HTTP API as the commands use it: typed answers, problems as errors, every wait bounded.

Only what may safely happen twice is tried again after a lost answer; a connection that was refused is
tried again for every method, because nothing was sent. Redirects are never followed: a token goes to
the registry that was named, or nowhere.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote

import httpx
from pydantic import ValidationError

from registry.cli.failures import CliError, ProblemError, UnreachableError
from registry.cli.settings import Address
from registry.contracts.api.answers import MAX_PAGE, Page, Problem
from registry.contracts.wire import Wire

MAX_ANSWER_BYTES = 32 << 20
"""A page of 500 devices with their facts is about 2 MB."""
ANSWER_DEADLINE_S = 60.0
ATTEMPTS = 4
FIRST_DELAY_S = 0.2
MAX_LISTED = 100_000
TRANSIENT = frozenset({429, 502, 503, 504})
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)

W = TypeVar("W", bound=Wire)


@dataclass(frozen=True)
class Answer:
    """A good answer, read whole."""

    what: str
    """Method and path, for messages."""
    status: int
    etag: str
    body: bytes

    def decode(self, of: type[W]) -> W:
        """The document in the body.

        Raises:
            CliError: it is not what the contract says.
        """
        try:
            return of.model_validate_json(self.body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            raise CliError(
                f"The registry's answer to {self.what} is not what its contract says: {where}: {first['msg']}",
                code="bad_answer",
                hint="Is this address really a Modelfleet registry, and of this version?",
            ) from error


class Client:
    """One registry. Close it, or use it in `with`."""

    def __init__(self, address: Address) -> None:
        self.address = address
        headers = {"accept": "application/json"}
        if address.token:
            headers["authorization"] = f"Bearer {address.token}"
        self._http = httpx.Client(
            base_url=address.url,
            headers=headers,
            timeout=_TIMEOUT,
            verify=ssl.create_default_context() if address.url.startswith("https") else False,
            trust_env=not address.is_loopback,  # a proxy from the environment cannot reach this host's loopback
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, of: type[W], **query: str | int | None) -> W:
        """One document.

        Raises:
            UnreachableError: no answer.
            ProblemError: the registry refused; `code` says why.
            CliError: the answer is not what the contract says.
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

    def items(self, path: str, of: type[W], limit: int = MAX_LISTED, **query: str | int | None) -> list[W]:
        """A list, page by page, at most `limit` items."""
        found: list[W] = []
        cursor: str | None = None
        while True:
            query |= {"cursor": cursor, "limit": min(MAX_PAGE, limit - len(found))}
            page = self.get(path, Page[of], **query)  # type: ignore[valid-type]
            found.extend(page.items)
            if page.next is None or page.next == cursor or not page.items or len(found) >= limit:
                return found[:limit]
            cursor = page.next

    def send(
        self,
        method: str,
        path: str,
        body: Wire | None = None,
        *,
        headers: dict[str, str] | None = None,
        repeatable: bool = False,
    ) -> Answer:
        """A change. `repeatable`: doing it twice is the same as once, so that a lost answer is no harm."""
        content = None if body is None else body.canonical()
        headers = {"content-type": "application/json", **(headers or {})} if content is not None else headers
        return self.call(method, path, content=content, headers=headers, repeatable=repeatable)

    def change(self, method: str, path: str, body: Wire | None, of: type[W], *, repeatable: bool = False) -> W:
        """A change that answers a document."""
        return self.send(method, path, body, repeatable=repeatable).decode(of)

    def exists(self, path: str) -> bool:
        """Is it there? (HEAD)"""
        try:
            self.call("HEAD", path, repeatable=True)
        except ProblemError as problem:
            if problem.status == 404:
                return False
            raise
        return True

    def call(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool = False,
        query: dict[str, str | int | None] | None = None,
        **request: Any,
    ) -> Answer:
        """One request with retries; raises as `get` does. `request`: content, headers, timeout, as httpx takes them."""
        params = {key: value for key, value in (query or {}).items() if value is not None}
        attempt = 1
        while True:
            try:
                with self._exchange(method, path, params=params, **request) as response:
                    return self._answer(response)
            except UnreachableError as error:
                if attempt == ATTEMPTS or not _may_repeat(error, repeatable=repeatable):
                    raise
            except ProblemError as problem:
                if attempt == ATTEMPTS or not repeatable or problem.status not in TRANSIENT:
                    raise
            time.sleep(FIRST_DELAY_S * 2 ** (attempt - 1))
            attempt += 1

    @contextmanager
    def download(self, path: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """A 200 or 206 whose body the caller reads; no retries. Raises as `get` does, also while it is read."""
        with self._exchange("GET", path, headers={"accept": "*/*", **headers}) as response:
            if response.status_code not in (200, 206):
                self._answer(response)
            yield response

    @contextmanager
    def _exchange(self, method: str, path: str, **request: Any) -> Iterator[httpx.Response]:
        _demand_names(path)
        try:
            with self._http.stream(method, path, **request) as response:
                yield response
        except httpx.TimeoutException as error:
            raise UnreachableError(f"The registry at {self.address.url} did not answer in time") from error
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"The registry at {self.address.url} cannot be reached: {str(error) or type(error).__name__}",
                hint="Is it running (registry serve)? Another address: --registry URL or MODELFLEET_REGISTRY.",
            ) from error

    def _answer(self, response: httpx.Response) -> Answer:
        answer = Answer(
            what=f"{response.request.method} {response.request.url.path}",
            status=response.status_code,
            etag=response.headers.get("etag", ""),
            body=_read_bounded(response),
        )
        if answer.status >= 300:
            raise _problem(answer)
        return answer


def _demand_names(path: str) -> None:
    """Raises CliError for a level that a server would take as the way to something else: empty, `.`, `..`, `a/b`.

    Every other bad name reaches the registry, which refuses it with the same code.
    """
    for name in map(unquote, path.split("/")[1:]):
        if name in ("", ".", "..") or "/" in name:
            fault = (
                f"{name!r} is no name: a name has 1 to 64 of a-z 0-9 . _ - and begins and ends with a letter or digit"
            )
            raise CliError("The request breaks a rule of the API.", code="invalid", errors=(fault,))


def _may_repeat(error: UnreachableError, *, repeatable: bool) -> bool:
    """A refused connection cost nothing; one that hangs has cost a whole timeout already, and would again."""
    cause = error.__cause__
    if isinstance(cause, (httpx.ConnectError, httpx.ConnectTimeout)):
        return True
    return repeatable and not isinstance(cause, httpx.TimeoutException)


def _read_bounded(response: httpx.Response) -> bytes:
    deadline = time.monotonic() + ANSWER_DEADLINE_S
    body = bytearray()
    for part in response.iter_bytes():
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise CliError(f"The registry answered more than {MAX_ANSWER_BYTES} bytes", code="bad_answer")
        if time.monotonic() > deadline:
            raise UnreachableError(f"The registry took over {ANSWER_DEADLINE_S:.0f} s to answer")
    return bytes(body)


def _problem(answer: Answer) -> ProblemError:
    try:
        problem = Problem.model_validate_json(answer.body)
    except ValidationError:
        code = "not_found" if answer.status == 404 and not answer.body else "bad_answer"
        return ProblemError(f"{answer.what} was answered with HTTP {answer.status}", status=answer.status, code=code)
    text = problem.detail or problem.title
    return ProblemError(text, status=answer.status, code=problem.code, errors=problem.errors)
