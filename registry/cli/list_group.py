"""Groups of commands about things of one kind, in which `list` needs not be said: `registry devices --limit 3`."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from registry.cli.session import Session, command

LIST = "list"


class ListGroup(TyperGroup):
    """Where no word names a command, the options are those of `list`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer does, with `list` before the options of a list."""
        named = any(word in self.commands or word in ctx.help_option_names for word in args)
        only_options = not args or args[0].startswith("-")
        return super().parse_args(ctx, args if named or not only_options else [LIST, *args])


def list_group(help_text: str) -> typer.Typer:
    """A group that has a command `list`, which it is without a command; its help says so after `help_text`."""
    return typer.Typer(
        cls=ListGroup, rich_markup_mode="markdown", help=f"{help_text} Without a command: list them.", callback=_options
    )


@command
def _options(session: Session) -> None:
    """The options of every command may stand before the command's name."""
