"""`registry serve | restore`: the commands that need the server's packages, which are imported when they run.

`restore` is the last step of putting a registry back from a backup, while it does not run.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from registry.cli.output import CliError, ExitCode, Output, exit_code_of
from registry.client.address import ADMIN_TOKEN_FILE
from registry.config import RegistryConfig, load_config
from registry.contracts.paths import CONSOLE
from registry.errors import RegistryError, StartError, TemporaryError
from registry.installation import install_command

log = logging.getLogger(__name__)
SERVER_PACKAGES = "`registry serve` needs the server's packages, which are not all installed here (missing: {})."
SERVER_HINT = "Install them with: {} - the other commands work without."
EXIT_CONFIG = ExitCode.USAGE
"""Somebody has to change something: a setting, a file, the version of the program."""
EXIT_FAILED = ExitCode.FAILURE
"""It may work later as it is: the database is away, a disk is full."""
MAX_SHOWN = 10


def serve(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Settings (TOML); MODELFLEET_REGISTRY_* take precedence."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="The port; 0: any free one.  [default: 8470]")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="The data folder.")] = None,
) -> None:
    """Run the registry. By default it needs no set-up: it keeps everything in one folder and listens on loopback only.

    On SIGHUP it reads the log level, the administrator's token and the broker's credentials again.
    """
    run = needing_server("registry.server.run", "run")
    options = {"host": host, "port": port, "data_dir": data_dir}
    settings = load_settings("serve", config, **options)
    with ending("serve"):
        run(settings, lambda url, link: _announce(settings, url, link), lambda: load_config(config, **options))


@contextmanager
def ending(command: str) -> Iterator[None]:
    """What a registry cannot start for, as the end of a command with its message, code and exit code."""
    try:
        yield
    except StartError as error:
        fail(command, error.message, EXIT_CONFIG if error.lasting else EXIT_FAILED, error.code)
    except TemporaryError as error:
        fail(command, error.message, EXIT_FAILED, error.code)
    except RegistryError as error:
        fail(command, error.message, EXIT_CONFIG, error.code)
    except OSError as error:
        fail(command, f"The registry cannot start: {error}", EXIT_FAILED)


def load_settings(command: str, file: Path | None, **overrides: Any) -> RegistryConfig:
    """The settings, or the end of the command with what is wrong with them."""
    try:
        return load_config(file, **overrides)
    except ValidationError as error:
        fail(command, "The configuration is not right:\n" + "\n".join(_faults(error)), EXIT_CONFIG)
    except (OSError, ValueError) as error:
        fail(command, f"The configuration is not right: {error}", EXIT_CONFIG)


def needing_server(module: str, function: str) -> Callable[..., Any]:
    """A function of the server, or the end of the command with what to install."""
    try:
        return getattr(import_module(module), function)  # type: ignore[no-any-return]  # 1 s, and absent where nothing is served
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("registry."):
            raise
        missing = CliError(SERVER_PACKAGES.format(error.name), hint=SERVER_HINT.format(install_command("server")))
        Output().fail(missing)
        raise typer.Exit(exit_code_of(missing)) from error


def _faults(error: ValidationError) -> list[str]:
    """Which settings and why. Never their values, which may be secrets: this goes into the journal."""
    return [f"  {'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()]


def _announce(settings: RegistryConfig, url: str, link: str) -> None:
    """To stdout, or, where all lines of the process are to be JSON, to the log."""
    token = settings.data_dir / ADMIN_TOKEN_FILE
    lines = [f"listening on {url}, data in {settings.data_dir}"]
    if token.exists():
        lines.append(f"the administrator's token is in {token}")
    if link:
        lines.append(f"the console, signed in once within 15 minutes: {url}{link}")
    elif settings.console.enabled:
        lines.append(f"the console is at {url}{CONSOLE}; `registry console` prints a link that signs in")
    for line in lines:
        if settings.log_format == "json":
            log.info("%s", line)
        else:
            typer.echo(f"registry: {line}")


def fail(command: str, message: str, exit_code: ExitCode, code: str = "") -> NoReturn:
    """The end of a command. For a program the code is in the JSON, for people and journals behind the message."""
    if "--json" in sys.argv:
        Output(as_json=True).fail(CliError(message, code=code or "invalid", exit_code=exit_code))
    else:
        typer.echo(f"registry {command}: {message}" + (f" [{code}]" if code else ""), err=True)
    raise typer.Exit(exit_code)


def restore(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="As `registry serve`; MODELFLEET_REGISTRY_* win."),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="The data folder.")] = None,
) -> None:
    """Complete the restoring of a backup. Run it on the registry's host, before the registry starts.

    Devices have seen later states than the backup contains. The command begins a new epoch, so that devices ask the
    registry and follow it. It makes sure that the administrator's token in the data folder works, and creates one if
    there is none. It lists the blobs that versions name and that the backup does not have.

    ```
    systemctl stop modelfleet-registry
    # put registry.db, blobs/ and keys/ back, see docs/backup.md
    registry restore --config /etc/modelfleet/registry.toml
    systemctl start modelfleet-registry
    ```
    """
    run = needing_server("registry.server.composition", "restore_registry")
    settings = load_settings("restore", config, data_dir=data_dir)
    with ending("restore"):
        done = run(settings)
    typer.echo(f"A new epoch begins, {done.epoch[:8]}: {done.devices} devices get their desired state again.")
    if done.new_admin is not None:
        typer.echo(f"A new administrator's token, {done.new_admin}, is in {settings.data_dir / ADMIN_TOKEN_FILE}.")
    if not done.trusted:
        typer.echo(
            "Devices that check signatures install nothing new: what they saw of the published versions is newer than "
            "the backup, and the keys of the root are not here to tell them of it. See docs/trust.md."
        )
    if done.missing:
        typer.echo(
            f"{len(done.missing)} blobs that versions need are missing or damaged; publish these versions again:"
        )
        for digest in done.missing[:MAX_SHOWN]:
            typer.echo(f"  {digest}")
