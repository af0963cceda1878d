"""The `registry` command: a table of commands, each imported when it is used.

So `registry models` starts without the packages of the server, of publishing or of progress bars.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from registry.cli.output import MEANING, CliError, Output, exit_code_of
from registry.cli.session import DebugOption, GlobalOptions, JsonOption, RegistryOption, TokenFileOption, TokenOption
from registry.client.errors import UsageFault

COMMANDS: dict[str, str] = {
    "publish": "registry.cli.catalogue.publish:publish",
    "import": "registry.cli.catalogue.import_model:import_model",
    "models": "registry.cli.catalogue.models:models",
    "show": "registry.cli.catalogue.models:show",
    "pull": "registry.cli.catalogue.pull:pull",
    "alias": "registry.cli.catalogue.models:app",
    "dataset": "registry.cli.catalogue.datasets:app",
    "evaluate": "registry.cli.catalogue.evaluate:evaluate",
    "record": "registry.cli.catalogue.models:record",
    "yank": "registry.cli.catalogue.yank:yank",
    "delete": "registry.cli.catalogue.models:delete",
    "devices": "registry.cli.fleet.devices:app",
    "deploy": "registry.cli.fleet.deploy:deploy",
    "undeploy": "registry.cli.fleet.deploy:undeploy",
    "rollout": "registry.cli.rollouts.app:app",
    "group": "registry.cli.fleet.groups:app",
    "webhook": "registry.cli.fleet.webhooks:app",
    "explain": "registry.cli.catalogue.explain:explain",
    "convert": "registry.cli.catalogue.convert:convert",
    "jobs": "registry.cli.fleet.jobs:app",
    "coverage": "registry.cli.catalogue.explain:coverage",
    "ask": "registry.cli.inference.ask:ask",
    "bench": "registry.cli.inference.bench:bench",
    "health": "registry.cli.fleet.telemetry:health",
    "events": "registry.cli.fleet.telemetry:events",
    "results": "registry.cli.fleet.telemetry:results",
    "counts": "registry.cli.fleet.telemetry:counts",
    "code": "registry.cli.codes:code",
    "console": "registry.cli.console:console",
    "token": "registry.cli.tokens:app",
    "key": "registry.cli.keys:app",
    "serve": "registry.cli.serve:serve",
    "restore": "registry.cli.serve:restore",
}
"""Command to `module:function`, or `module:app` for a group of commands."""


class LazyGroup(TyperGroup):
    """Finds a command in `COMMANDS` and imports only that."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, or None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = _load(cmd_name)
        return self.commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer does; for a word that is no command all are loaded, so that the nearest can be suggested."""
        if args and args[0] not in COMMANDS:
            for name in COMMANDS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


def _load(name: str) -> Any:
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        group = get_group(found)
        group.name = name
        return group
    single = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    single.command(name)(found)
    return get_command(single)


WrongCommandLine: Any = typer.BadParameter.__base__
"""Click's UsageError: typer exports only this one kind of it."""
EXIT_CODES = "Exit codes: " + "; ".join(f"**{int(code)}** {meaning}" for code, meaning in MEANING.items()) + "."

app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415 - no other option needs it

        typer.echo(f"modelfleet {version('modelfleet')}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    *,
    registry: RegistryOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Publish models, say which device serves which, and see what they do.

    A first round:

    ```
    registry serve                                          # in a terminal of its own
    registry publish lenet lenet.onnx --version 1.0.0 --target cpu
    registry devices add edge-1                             # prints the agent's credential and its settings
    registry deploy lenet@1.0.0 --device edge-1 --wait
    registry health edge-1
    ```
    """
    ctx.obj = GlobalOptions(registry=registry, token=token, token_file=token_file, as_json=as_json, debug=debug)


def _run_for_a_program() -> int:
    """A wrong command line as one JSON object too; typer would draw a box."""
    try:
        return app(prog_name="registry", standalone_mode=False) or 0
    except WrongCommandLine as error:
        fault = UsageFault(error.format_message() or "Which command?", hint="See --help.")
        Output(as_json=True).fail(fault)
        return int(exit_code_of(fault))


@contextmanager
def _traced() -> Iterator[None]:
    """A span for the command, where MODELFLEET_TRACING asks for traces; `serve` has a setting for its own."""
    command = next((word for word in sys.argv[1:] if word in COMMANDS), "")
    if os.environ.get("MODELFLEET_TRACING", "").lower() not in ("1", "true") or command in ("", "serve"):
        yield
        return
    from importlib.metadata import version  # noqa: PLC0415 - only with traces

    from registry import tracing  # noqa: PLC0415 - only where it is wanted

    try:
        tracing.set_up("modelfleet-cli", version("modelfleet"))
    except tracing.TracingError as error:
        Output(as_json="--json" in sys.argv).fail(CliError(str(error), code="tracing"))
        sys.exit(2)
    try:
        with tracing.span(f"registry {command}", "CLIENT") as current:
            try:
                yield
            except SystemExit as ended:
                if ended.code:
                    tracing.has_failed(current, f"exit code {ended.code}")
                raise
    finally:
        tracing.shut_down()


def main() -> None:
    """The console script. An error that nobody foresaw is told in one line; --debug shows where it came from."""
    try:
        with _traced():
            if "--json" in sys.argv:
                sys.exit(_run_for_a_program())
            app(prog_name="registry")
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        text = f"{type(error).__name__}: {error}"
        Output(as_json="--json" in sys.argv).fail(
            CliError(
                text, code="internal", hint="This is a bug. Repeat the command with --debug and report its output."
            )
        )
        sys.exit(1)
