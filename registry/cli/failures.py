"""How a command ends: exit codes that programs can rely on, and errors a person can act on."""

from __future__ import annotations

import signal
import sys
from enum import IntEnum

from registry.client.errors import ClientError


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
    ExitCode.FAILURE: "the command failed; the message says why",
    ExitCode.USAGE: "the command line, the publish file or a value in it is wrong",
    ExitCode.NOT_FOUND: "not found",
    ExitCode.CONFLICT: "conflict: it exists with other content, is in use, or somebody else changed it first",
    ExitCode.FORBIDDEN: "not allowed: no token, an unknown token, or a token without the scope",
    ExitCode.UNREACHABLE: "the registry does not answer",
    ExitCode.DEADLINE: "the time limit of --timeout passed before the result was known",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C); run the same command again to continue where it stopped",
}

_EXIT_BY_CODE = {
    "usage": ExitCode.USAGE,
    "bad_proxy": ExitCode.USAGE,
    "invalid": ExitCode.USAGE,
    "not_found": ExitCode.NOT_FOUND,
    "conflict": ExitCode.CONFLICT,
    "precondition_failed": ExitCode.CONFLICT,
    "in_use": ExitCode.CONFLICT,
    "unauthorized": ExitCode.FORBIDDEN,
    "forbidden": ExitCode.FORBIDDEN,
    "unreachable": ExitCode.UNREACHABLE,
    "deadline": ExitCode.DEADLINE,
}


def end_well() -> None:
    """From here on SIGTERM ends the command as Ctrl-C does, with exit code 143: folders and processes go with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


class CliError(ClientError):
    """A command that could not do what it was asked.

    Args:
        what: What happened, and why: one sentence or a few.
        code: Stable, for programs (`--json`).
        hint: What to do about it. Empty: what the table of the code says.
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
        super().__init__(what, code=code, hint=hint, errors=errors)
        self.exit_code = exit_code


def exit_code_of(error: ClientError) -> ExitCode:
    """The exit status of a command that ends with this error."""
    own = error.exit_code if isinstance(error, CliError) else None
    return own if own is not None else _EXIT_BY_CODE.get(error.code, ExitCode.FAILURE)
