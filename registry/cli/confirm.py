"""Asking a person before something that cannot be undone."""

from __future__ import annotations

import sys

import typer

from registry.cli.failures import ExitCode
from registry.cli.session import Session
from registry.client.errors import UsageFault


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
