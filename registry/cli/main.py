"""The `registry` command: a table of commands, each imported when it is used.

So `registry models` starts without the packages of the server, of publishing or of progress bars.
"""

from __future__ import annotations

import logging
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
from registry.client.errors import ClientError, UsageFault
from registry.installation import install_command

PANELS: dict[str, dict[str, str]] = {
    "Models": {
        "publish": "registry.cli.catalogue.publish:publish",
        "import": "registry.cli.catalogue.import_model:import_model",
        "models": "registry.cli.catalogue.models:models",
        "show": "registry.cli.catalogue.models:show",
        "pull": "registry.cli.catalogue.pull:pull",
        "alias": "registry.cli.catalogue.models:app",
        "yank": "registry.cli.catalogue.yank:yank",
        "delete": "registry.cli.catalogue.models:delete",
    },
    "Measure and convert": {
        "dataset": "registry.cli.catalogue.datasets:app",
        "evaluate": "registry.cli.catalogue.evaluate:evaluate",
        "convert": "registry.cli.catalogue.convert:convert",
        "explain": "registry.cli.catalogue.explain:explain",
        "coverage": "registry.cli.catalogue.explain:coverage",
        "jobs": "registry.cli.fleet.jobs:app",
    },
    "Devices": {
        "devices": "registry.cli.fleet.devices:app",
        "group": "registry.cli.fleet.groups:app",
        "deploy": "registry.cli.fleet.deploy:deploy",
        "undeploy": "registry.cli.fleet.deploy:undeploy",
        "rollout": "registry.cli.rollouts.app:app",
    },
    "Ask devices": {
        "ask": "registry.cli.inference.ask:ask",
        "bench": "registry.cli.inference.bench:bench",
    },
    "Watch": {
        "status": "registry.cli.fleet.status:status",
        "health": "registry.cli.fleet.telemetry:health",
        "events": "registry.cli.fleet.events:events",
        "counts": "registry.cli.fleet.telemetry:counts",
        "results": "registry.cli.fleet.telemetry:results",
        "record": "registry.cli.catalogue.models:record",
        "webhook": "registry.cli.fleet.webhooks:app",
        "console": "registry.cli.console:console",
        "code": "registry.cli.codes:code",
    },
    "The registry itself": {
        "serve": "registry.cli.serve:serve",
        "restore": "registry.cli.serve:restore",
        "doctor": "registry.cli.upkeep:doctor",
        "disk": "registry.cli.upkeep:disk",
        "uploads": "registry.cli.uploads:app",
        "token": "registry.cli.access.tokens:app",
        "approvals": "registry.cli.access.approvals:app",
        "trust": "registry.cli.trust.app:app",
        "key": "registry.cli.keys:app",
        "broker": "registry.cli.broker:app",
        "clients": "registry.cli.clients:app",
    },
}
"""Panel of the help to its commands: command to `module:function`, or `module:app` for a group of commands."""
COMMANDS = {name: target for panel in PANELS.values() for name, target in panel.items()}
_PANEL = {name: panel for panel, commands in PANELS.items() for name in commands}
VERSION_PATIENCE_S = 3.0
EXTRAS = {
    "publish": {"numpy", "onnx", "PIL", "yaml"},
    "client": {"paho"},
    "signing": {"cryptography"},
    "postgresql": {"psycopg"},
    "server": {"alembic", "apscheduler", "fastapi", "prometheus_client", "sqlalchemy", "starlette", "uvicorn"},
}
"""Extra of pyproject.toml to the modules that it brings, for a module that is missing."""


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
            loaded = _load(cmd_name)
            loaded.rich_help_panel = _PANEL[cmd_name]
            self.commands[cmd_name] = loaded
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


def _told_version() -> str:
    from importlib.metadata import version  # noqa: PLC0415 - no other option needs it

    return f"modelfleet {version('modelfleet')}"


def _tell_version(options: GlobalOptions) -> None:
    """This program's version and, where it answers within a moment, that of the registry."""
    out = Output(as_json=options.as_json)
    own = _told_version()
    try:
        from registry.client.api import ApiClient  # noqa: PLC0415 - no other option needs it
        from registry.contracts.api.answers import AboutView  # noqa: PLC0415
        from registry.contracts.paths import about_path  # noqa: PLC0415

        address = options.address
        with ApiClient(address) as client:
            about = client.call("GET", about_path(), timeout=VERSION_PATIENCE_S, tries=1).decode(AboutView)
        theirs, why = about.version, ""
    except ClientError as error:
        theirs, why = "", error.what
    document = {"version": own.split()[1], "registry": theirs or None, "why": why}
    lines = [own, f"registry  {theirs} at {address.url}" if theirs else f"registry  not known: {why}"]
    out.answer(document, "\n".join(lines))


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


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    *,
    registry: RegistryOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the versions of this program and of the registry, and exit.")
    ] = False,
) -> None:
    """Publish models, say which device serves which, and see what they do.

    A first round:

    ```
    registry serve                # in a terminal of its own
    registry publish lenet lenet.onnx --version 1.0.0 --target cpu
    registry devices add edge-1   # prints credential and settings of the agent
    registry deploy lenet@1.0.0 --device edge-1 --wait
    registry health edge-1
    ```
    """
    ctx.obj = GlobalOptions(registry=registry, token=token, token_file=token_file, as_json=as_json, debug=debug)
    if version:
        _tell_version(ctx.obj)
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        ctx.fail("Which command?")


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

    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())  # stderr has one error, perhaps as JSON
    logging.getLogger("opentelemetry").propagate = False
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
        if not tracing.shut_down() and "--json" not in sys.argv:
            typer.echo(
                "registry: the trace was not sent: no collector takes it at OTEL_EXPORTER_OTLP_ENDPOINT", err=True
            )


def _missing(package: str) -> CliError:
    """A command whose packages are not all installed here: what to install."""
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), "publish,server")
    hint = f"Install what this command needs: {install_command(*extra.split(','))}"
    return CliError(f"The package {package} is not installed here", code="tool_missing", hint=hint)


def main() -> None:
    """The console script. An error that nobody foresaw is told in one line; --debug shows where it came from."""
    try:
        with _traced():
            if "--json" in sys.argv:
                sys.exit(_run_for_a_program())
            app(prog_name="registry")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if "--debug" in sys.argv or missing in {"registry", "agent", ""}:
            raise
        Output(as_json="--json" in sys.argv).fail(_missing(missing))
        sys.exit(1)
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
