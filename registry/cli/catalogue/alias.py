"""`registry alias`: movable names for versions, with their history."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.output import CliError, time_text
from registry.cli.session import Session, command
from registry.client.versions import move_alias
from registry.contracts.api.versions import AliasView
from registry.contracts.paths import alias_history_path, alias_path, aliases_path

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Manage movable names for versions, such as `stable`. The history says who moved an alias and when.",
)

Model = Annotated[str, typer.Argument(metavar="MODEL")]
Alias = Annotated[str, typer.Argument(metavar="ALIAS")]


@app.command("list")
@command
def list_aliases(session: Session, model: Model) -> None:
    """List a model's aliases.

    ```
    registry alias list lenet
    ```
    """
    found = session.client.items(aliases_path(model), AliasView)
    _print(session, found, f"Model {model} has no aliases. Set one: registry alias set {model} stable VERSION")


@app.command("set")
@command
def set_alias(
    session: Session, model: Model, alias: Alias, version: Annotated[str, typer.Argument(metavar="VERSION")]
) -> None:
    """Point an alias at a version. Refused when somebody else moves it at the same time.

    ```
    registry alias set lenet stable 1.0.0
    ```
    """
    view, moved = move_alias(session.client, model, alias, version)
    text = f"{model}@{alias} is now {version}." if moved else f"{model}@{alias} is {version} already; nothing to do."
    session.out.answer(view, text)


@app.command("remove")
@command
def remove_alias(session: Session, model: Model, alias: Alias) -> None:
    """Remove an alias. Its history stays.

    ```
    registry alias remove lenet beta
    ```
    """
    current = session.client.get(alias_path(model, alias), AliasView)
    if current.version is None:
        raise CliError(f"{model}@{alias} was removed already", code="not_found")
    session.client.send("DELETE", alias_path(model, alias), headers={"if-match": f'"{current.revision}"'})
    told = {"removed": f"{model}@{alias}", "was": current.version}
    session.out.answer(told, f"Removed {model}@{alias}, which was {current.version}.")


@app.command("history")
@command
def history(session: Session, model: Model, alias: Alias) -> None:
    """Show where an alias has pointed, newest first.

    ```
    registry alias history lenet stable
    ```
    """
    _print(session, session.client.items(alias_history_path(model, alias), AliasView), "It was never set.")


def _print(session: Session, found: list[AliasView], empty: str) -> None:
    session.out.listing(
        found,
        ("ALIAS", "VERSION", ">REVISION", "MOVED", "BY"),
        ((a.alias, a.version or "(removed)", a.revision, time_text(a.moved_at), a.moved_by) for a in found),
        empty=empty,
    )
