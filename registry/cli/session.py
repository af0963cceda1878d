"""What every command has: the global options, the output, and a client that exists once it is needed.

`command` turns a function that takes a `Session` first into one that typer takes: the global options
are added to its own, so that they may stand before the command's name or after it. `confirm` asks a person before
something that cannot be undone.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from registry.cli.output import CliError, ExitCode, Output, exit_code_of
from registry.client.address import REGISTRY_VARIABLE, TOKEN_VARIABLE, Address, find_address
from registry.client.errors import ClientError, UsageFault
from registry.contracts.codes import ProblemCode
from registry.errors import RegistryError

if TYPE_CHECKING:
    from registry.client.api import ApiClient

COMMON_PANEL = "Options of every command"

RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        metavar="URL",
        help=f"The registry's address. Default: {REGISTRY_VARIABLE}, or this host's registry.",
        rich_help_panel=COMMON_PANEL,
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help=f"The token. Other users see it in the process list: prefer {TOKEN_VARIABLE} or --token-file.",
        rich_help_panel=COMMON_PANEL,
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="A file with the token.", rich_help_panel=COMMON_PANEL),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, for programs.", rich_help_panel=COMMON_PANEL)
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Print a traceback with every error.", rich_help_panel=COMMON_PANEL)
]


@dataclass(frozen=True)
class GlobalOptions:
    """What may stand before or after the command's name; None where it was not given."""

    registry: str | None = None
    token: str | None = None
    token_file: Path | None = None
    as_json: bool = False
    debug: bool = False

    @property
    def address(self) -> Address:
        """The registry's address and token. Raises UsageFault."""
        if self.token is not None and self.token_file is not None:
            raise UsageFault("Give --token or --token-file, not both")
        return find_address(self.registry, self.token, self.token_file)

    def over(self, earlier: GlobalOptions) -> GlobalOptions:
        """These options, with those of `earlier` where these do not say; a token of either kind replaces both."""
        named = self.token is not None or self.token_file is not None
        return GlobalOptions(
            registry=self.registry if self.registry is not None else earlier.registry,
            token=self.token if named else earlier.token,
            token_file=self.token_file if named else earlier.token_file,
            as_json=self.as_json or earlier.as_json,
            debug=self.debug or earlier.debug,
        )


class Session:
    """One run of one command.

    Args:
        options: The global options.
    """

    def __init__(self, options: GlobalOptions) -> None:
        self.options = options
        self.out = Output(as_json=options.as_json)
        self._client: ApiClient | None = None

    @property
    def address(self) -> Address:
        """The registry's address and token."""
        return self.options.address

    @property
    def client(self) -> ApiClient:
        """The connection to the registry, made at its first use."""
        if self._client is None:
            from registry.client.api import ApiClient  # noqa: PLC0415 - httpx costs 150 ms; some commands need none

            address = self.address
            if address.sends_token_in_clear:
                self.out.warn(f"the token goes unencrypted to {address.url}: use https")
            self._client = ApiClient(address)
        return self._client

    def close(self) -> None:
        """Close what was opened."""
        if self._client is not None:
            self._client.close()

    @staticmethod
    def now() -> datetime:
        """UTC."""
        return datetime.fromtimestamp(time.time(), timezone.utc)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the global options. The function's first parameter is its `Session`."""
    hints = get_type_hints(function, include_extras=True)
    own = [p.replace(annotation=hints[p.name]) for p in list(inspect.signature(function).parameters.values())[1:]]

    @wraps(function)
    def run(ctx: typer.Context, *args: Any, **values: Any) -> None:
        given = {name: values.pop(name) for name in _COMMON}
        options = GlobalOptions(**given)
        if isinstance(ctx.obj, GlobalOptions):
            options = options.over(ctx.obj)
        ctx.obj = options
        session = Session(options)
        try:
            function(session, *args, **values)
        except (ClientError, RegistryError, ValueError) as error:
            failure = as_client_error(error)
            if failure is None:
                raise
            if failure.code == ProblemCode.UNAUTHORIZED:
                failure.hint = options_hint(options) or failure.hint
            session.out.fail(failure)
            if options.debug:
                raise
            raise typer.Exit(exit_code_of(failure)) from error
        finally:
            session.close()

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *(p.replace(kind=keyword) for p in own),
        *(inspect.Parameter(n, keyword, annotation=a, default=d) for n, (a, d) in _COMMON.items()),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def options_hint(options: GlobalOptions) -> str:
    """Why this host's own registry got no token, and who may read it; empty: that is not so."""
    try:
        return options.address.hint
    except ClientError:
        return ""


def as_client_error(error: ClientError | RegistryError | ValueError) -> ClientError | None:
    """What an inspection or a contract refuses ends a command like any other failure; None: nobody foresaw it."""
    if isinstance(error, ClientError):
        return error
    if isinstance(error, RegistryError):
        # What a file or a version's content breaks is no wrong command line.
        exit_code = ExitCode.FAILURE if error.code == ProblemCode.INVALID else None
        return CliError(error.message, code=error.code, hint=error.hint, errors=error.errors, exit_code=exit_code)
    from pydantic import ValidationError  # noqa: PLC0415 - `registry --help` needs none

    if not isinstance(error, ValidationError):
        return None
    # Answers are checked by the client: what is left is a request made of the command line.
    from registry.contracts.faults import fault_lines  # noqa: PLC0415 - likewise

    return UsageFault("What was given breaks a rule of the API", hint="See --help.", errors=fault_lines(error.errors()))


_COMMON: dict[str, tuple[Any, Any]] = {
    "registry": (RegistryOption, None),
    "token": (TokenOption, None),
    "token_file": (TokenFileOption, None),
    "as_json": (JsonOption, False),
    "debug": (DebugOption, False),
}


def parse_labels(pairs: list[str]) -> dict[str, str]:
    """`k=v` arguments as a dictionary. Raises UsageFault."""
    return parse_pairs(pairs, "Label", "key=value")


def parse_pairs(pairs: list[str], what: str, form: str, hint: str = "") -> dict[str, str]:
    """`k=v` arguments of the option `what` as a dictionary.

    Raises:
        UsageFault: one has no `=`, or a key appears twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageFault(f"{what} {pair!r} is not of the form {form}", hint=hint)
        if key in found:
            raise UsageFault(f"{what} {key!r} is given twice")
        found[key] = value
    return found


def confirm(session: Session, question: str, *, yes: bool) -> None:
    """Ask a person; a program has to say --yes.

    Raises:
        UsageFault: nobody is there to ask.
        typer.Exit: the answer is no, or Ctrl-C.
    """
    if yes:
        return
    if session.out.as_json or not sys.stdin.isatty():
        raise UsageFault("The command asks for confirmation, but there is no terminal to answer on", hint="Give --yes")
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:  # left to typer it would end as a failure
        session.out.note("\nNothing was changed.")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if not agreed:
        session.out.note("Nothing was changed.")
        raise typer.Exit(0)
