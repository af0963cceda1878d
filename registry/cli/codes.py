"""`registry code`: what a stable code means and what to do, from the tables of the contracts. Needs no registry."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from typing import Annotated

import typer

from registry.cli.output import CliError
from registry.cli.session import Session, command
from registry.contracts.codes import RETRYABLE, Code, places_of

GIVEN_BY = "Codes stand in error messages, logs, health reports, events and results."


@command
def code(
    session: Session, name: Annotated[str, typer.Argument(metavar="CODE", help="As a message or a log shows it.")]
) -> None:
    """Show what a code means and what to do about it. No registry is needed.

    ```
    registry code golden_mismatch
    ```
    """
    rows = places_of(name.strip().lower())
    if not rows:
        near = get_close_matches(name.lower(), {str(row) for table in Code.__subclasses__() for row in table}, n=3)
        hint = f"The nearest: {', '.join(near)}." if near else GIVEN_BY + " docs/codes.md lists all."
        raise CliError(f"There is no code {name!r}", code="not_found", hint=hint)
    if session.out.as_json:
        session.out.document({"code": str(rows[0]), "places": [_place(row) for row in rows]})
        return
    session.out.say(f"{rows[0]}\n" + "\n".join(_text(row) for row in rows))


def _place(row: Code) -> dict[str, str]:
    return {"table": type(row).__name__, "given": _table(row), "meaning": row.meaning, "action": row.action}


def _table(row: Code) -> str:
    """The first sentence of the table's text: who gives the code, and when."""
    return " ".join(str(inspect.getdoc(type(row))).split()).split(". ")[0].rstrip(".")


def _text(row: Code) -> str:
    again = (
        "\n    The same request may succeed later."
        if row in RETRYABLE and type(row).__name__ == "InferenceCode"
        else ""
    )
    return f"\n  {_table(row)}:\n    {row.meaning}\n    What to do: {row.action}{again}"
