"""How a command ends: exit codes that programs can rely on, and errors a person can act on."""

from __future__ import annotations

import signal
import sys
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit status of every `registry` command. A number never changes its meaning."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    FORBIDDEN = 5
    UNREACHABLE = 6
    DEADLINE = 7
    INTERRUPTED = 130


MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "done; also when there was nothing to do",
    ExitCode.FAILURE: "it failed: the message says why",
    ExitCode.USAGE: "the command line, the publish file or a value in it is wrong",
    ExitCode.NOT_FOUND: "what was named is not there",
    ExitCode.CONFLICT: "it exists with other content, is in use, or somebody else changed it first",
    ExitCode.FORBIDDEN: "the registry refused: no token, an unknown one, or one without the scope",
    ExitCode.UNREACHABLE: "the registry does not answer",
    ExitCode.DEADLINE: "the time given with --timeout passed before it was decided",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C); run the same command again to go on where it stopped",
}

_EXIT_BY_CODE = {
    "invalid": ExitCode.USAGE,
    "not_found": ExitCode.NOT_FOUND,
    "conflict": ExitCode.CONFLICT,
    "precondition_failed": ExitCode.CONFLICT,
    "in_use": ExitCode.CONFLICT,
    "unauthorized": ExitCode.FORBIDDEN,
    "forbidden": ExitCode.FORBIDDEN,
}

_HINT_BY_CODE = {
    "unauthorized": "Give a token with --token-file FILE or MODELFLEET_TOKEN. On the registry's own host the "
    "administrator's token is found by itself when you run as the user that serves the registry.",
    "forbidden": "An administrator can make a token with the scope: registry token create NAME --scope SCOPE",
    "precondition_failed": "Somebody changed it in between. Look at it again, then repeat the command.",
    "insufficient_storage": "Free space on the registry's disk; registry delete MODEL@VERSION removes what is unused.",
}


def end_well() -> None:
    """From here on SIGTERM ends the command as Ctrl-C does, with exit code 143: folders and processes go with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


class CliError(Exception):
    """A command that could not do what it was asked.

    Args:
        what: What happened, and why: one sentence or a few.
        code: Stable, for programs (`--json`): the problem's code where the registry gave one.
        hint: What to do about it.
        errors: The single faults.
        exit_code: Unless `code` decides it.
    """

    def __init__(
        self,
        what: str,
        *,
        code: str = "failed",
        hint: str = "",
        errors: tuple[str, ...] = (),
        exit_code: ExitCode | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.code = code
        self.hint = hint or _HINT_BY_CODE.get(code, "")
        self.errors = errors
        self.exit_code = exit_code if exit_code is not None else _EXIT_BY_CODE.get(code, ExitCode.FAILURE)


class UsageFault(CliError):  # noqa: N818 - it is the user's, not an Error of ours
    """The command line or the publish file is wrong."""

    def __init__(self, what: str, hint: str = "", errors: tuple[str, ...] = ()) -> None:
        super().__init__(what, code="usage", hint=hint, errors=errors, exit_code=ExitCode.USAGE)


class UnreachableError(CliError):
    """No answer from the registry, or none in time."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, code="unreachable", hint=hint, exit_code=ExitCode.UNREACHABLE)


class ForeignAnswerError(UnreachableError):
    """Somebody between this host and the registry answered: that is no word on what was asked."""

    def __init__(self, what: str) -> None:
        super().__init__(
            what, hint="Is this address the registry's own, and what stands in between (a proxy, a portal)?"
        )
        self.code = "bad_answer"
        self.exit_code = ExitCode.FAILURE


class ProblemError(CliError):
    """The registry answered with a problem document."""

    def __init__(self, what: str, *, status: int, code: str, errors: tuple[str, ...] = ()) -> None:
        super().__init__(what, code=code, errors=errors)
        self.status = status
