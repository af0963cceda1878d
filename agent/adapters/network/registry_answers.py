"""What an answer to the agent means: a refusal by the registry, a passing failure on the way, or the data.

| answer | means |
|---|---|
| no answer, 5xx, 408, 425, 429 | UnreachableError: later, not before Retry-After |
| any other status without a problem document of the registry | UnreachableError: somebody in between answered |
| the registry's 401 | UnreachableError credential_refused: later, with what the token's file then holds |
| any other refusal of the registry | PermanentError registry_refused |
| 2xx of another content type, or not JSON | UnreachableError: somebody in between answered, or changed it |
| 2xx that breaks the contract | TransientError bad_answer |
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from agent.errors import PermanentError, TransientError
from registry.contracts.codes import DeploymentCode
from registry.httpclient.verdicts import JSON, MAX_PROBLEM_BYTES, foreign_text, media_type, problem_of

if TYPE_CHECKING:
    import httpx

BUSY = frozenset({408, 425, 429})
MAX_RETRY_AFTER_S = 3600.0
MAX_FOREIGN_RETRY_AFTER_S = 60.0
"""Of somebody who answers in the registry's place."""


class UnreachableError(TransientError):
    """The registry cannot be reached now."""

    def __init__(
        self,
        message: str,
        *,
        code: str = DeploymentCode.REGISTRY_UNREACHABLE,
        retry_after_s: float = 0.0,
        progress: bool = False,
    ) -> None:
        super().__init__(code, message, retry_after_s=retry_after_s, progress=progress)


class RegistryRefusedError(PermanentError):
    """The registry refused what was asked. `problem`: the code of its problem document."""

    def __init__(self, message: str, problem: str) -> None:
        super().__init__(DeploymentCode.REGISTRY_REFUSED, message)
        self.problem = problem


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Every error of the network becomes ours."""
    import httpx  # noqa: PLC0415 - it takes 0.15 s, and an agent that has all it needs starts without it

    try:
        yield
    except (httpx.TransportError, httpx.DecodingError, httpx.StreamError, UnicodeError) as error:
        raise UnreachableError(f"{url}: {type(error).__name__}: {error}") from error
    except httpx.InvalidURL as error:
        raise UnreachableError(f"registry.url {url!r}: {error}") from error


def refusal(answer: httpx.Response, what: str) -> TransientError | PermanentError:
    """What an answer without success means."""
    status, kind, body = answer.status_code, answer.headers.get("content-type"), _beginning(answer)
    problem = problem_of(status, kind, body)
    if problem is None:
        text = foreign_text(status, kind, body, answer.headers.get("location", ""))
        delay = min(_retry_after(answer.headers.get("retry-after", "")), MAX_FOREIGN_RETRY_AFTER_S)
        return UnreachableError(f"{what}: {text}", retry_after_s=delay)
    said = "; ".join((problem.detail or problem.title, *problem.errors))[:600]
    text = f"{what}: {status} {problem.code}: " + "".join(c if c.isprintable() else " " for c in said)
    if status >= 500 or status in BUSY:
        return UnreachableError(text, retry_after_s=_retry_after(answer.headers.get("retry-after", "")))
    if problem.code == "unauthorized":
        return UnreachableError(text, code=DeploymentCode.CREDENTIAL_REFUSED)
    return RegistryRefusedError(text, problem.code)


def foreign(answer: httpx.Response, body: bytes | None = None) -> UnreachableError:
    """An answer that is somebody else's, or was changed on the way. `body`: what was read of it already."""
    kind = answer.headers.get("content-type")
    text = foreign_text(answer.status_code, kind, _beginning(answer) if body is None else body)
    return UnreachableError(f"{answer.url.path}: {text}")


def require_type(answer: httpx.Response, expected: str) -> None:
    """Raises UnreachableError for an answer of another content type. One that names none is judged by its content."""
    if media_type(answer.headers.get("content-type")) not in ("", expected):
        raise foreign(answer)


def json_object(answer: httpx.Response, limit: int, *members: str) -> bytes:
    """The whole body, which is a JSON object with these members and not longer than `limit`.

    Raises:
        UnreachableError: it is another type, or no such object: cut or recoded on the way.
        TransientError: it is too long.
    """
    require_type(answer, JSON)
    body = bounded(answer, limit)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(name in found for name in members):
        raise foreign(answer, body)
    return body


def bounded(answer: httpx.Response, limit: int, until: float = float("inf")) -> bytes:
    """The whole body, when it is not longer than `limit`. `until`: the monotonic time by which it has to be whole."""
    data = _beginning(answer, limit, until)
    if len(data) > limit:
        raise bad_answer(f"{answer.url.path}: the body is longer than {limit} bytes")
    return data


def bad_answer(text: str) -> TransientError:
    """The registry answered something that is not what its contract says."""
    return TransientError(DeploymentCode.BAD_ANSWER, text)


def _beginning(answer: httpx.Response, limit: int = MAX_PROBLEM_BYTES, until: float = float("inf")) -> bytes:
    """One byte more than `limit`, so that a longer body is seen to be one."""
    data = bytearray()
    for chunk in answer.iter_bytes():
        data += chunk
        if len(data) > limit:
            break
        if time.monotonic() > until:
            raise UnreachableError(f"{answer.url.path}: after {len(data)} bytes it is too slow")
    return bytes(data[: limit + 1])


def _retry_after(value: str) -> float:
    """Seconds from a Retry-After header, which holds seconds or a date; 0 when it holds neither."""
    try:
        seconds = float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)
