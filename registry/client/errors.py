"""What can go wrong between a program and a registry, each with a stable code and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable

from registry.contracts.codes import (
    ClientCode,
    Code,
    DeploymentCode,
    InferenceCode,
    JobCode,
    ProblemCode,
    ReasonCode,
    known,
)

_TABLES = (ClientCode, ProblemCode, JobCode, DeploymentCode, InferenceCode, ReasonCode)
TRANSIENT = frozenset({429, 502, 503, 504})
"""Statuses after which the same request may succeed later."""


def action_of(code: str, tables: Iterable[type[Code]] = _TABLES) -> str:
    """What to do about a code; empty where no table has it."""
    row = known(code, tables)
    return row.action if row is not None else ""


class ClientError(Exception):
    """A request, an upload or a download that did not succeed.

    Args:
        what: What happened, and why: one sentence or a few.
        code: Stable, for programs: the problem's code where the registry gave one.
        hint: What to do about it. Empty: what the table of the code says.
        errors: The single faults.
    """

    transient = False
    """May the same request succeed later?"""

    def __init__(self, what: str, *, code: str = "failed", hint: str = "", errors: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.code = code
        self.hint = hint or action_of(code)
        self.errors = errors


class UsageFault(ClientError):  # noqa: N818 - it is the user's, not an Error of ours
    """What the caller gave is wrong: an address, an option, a file."""

    def __init__(self, what: str, hint: str = "", errors: tuple[str, ...] = ()) -> None:
        super().__init__(what, code="usage", hint=hint, errors=errors)


class NoAnswerError(ClientError):
    """No answer from the registry, or none in time."""

    transient = True

    def __init__(self, what: str, hint: str = "", *, code: str = "unreachable") -> None:
        super().__init__(what, code=code, hint=hint)


class ForeignAnswerError(NoAnswerError):
    """Something between this host and the registry answered, for example a proxy. It says nothing about the request."""

    def __init__(self, what: str) -> None:
        hint = "Is this address the registry's own, and what stands in between (a proxy, a portal)?"
        super().__init__(what, hint, code="bad_answer")


class ProblemError(ClientError):
    """The registry refused with a problem document (RFC 9457). `status` is the status code of HTTP."""

    def __init__(self, what: str, *, status: int, code: str, errors: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(what, code=code, hint=hint or action_of(code, (ProblemCode,)), errors=errors)
        self.status = status
        self.transient = status in TRANSIENT


def own_version() -> str:
    """Of this program; empty: it is not installed as a package."""
    from importlib.metadata import distributions  # noqa: PLC0415 - only after a failure

    found = {each.metadata["Name"]: each.version for each in distributions()}
    return found.get("modelfleet") or found.get("modelfleet-client") or ""
