"""`registry restore`: the last step of putting a registry back from a backup, while it does not run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from registry.cli.serve import ending, load_settings, needing_server
from registry.client.address import ADMIN_TOKEN_FILE

MAX_SHOWN = 10


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
    # put registry.db and blobs/ back, see docs/operations.md
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
    if done.missing:
        typer.echo(
            f"{len(done.missing)} blobs that versions need are missing or damaged; publish these versions again:"
        )
        for digest in done.missing[:MAX_SHOWN]:
            typer.echo(f"  {digest}")
