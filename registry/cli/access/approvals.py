"""`registry approvals`: changes that wait for a second person, where the registry asks for one."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.list_group import list_group
from registry.cli.listing import LimitOption, Listing, show_list
from registry.cli.output import time_text
from registry.cli.session import Session, command
from registry.contracts.api.approvals import ChangeDecision, ChangeState, ChangeView
from registry.contracts.paths import approval_path, approvals_path

app = list_group("Approve or deny changes that wait for a second person (`rollouts.two_person`).")
_CHANGES = Listing(
    of=ChangeView,
    noun="change",
    columns=("ID", "CHANGE", "SUBJECT", "ASKED BY", "ASKED", "STATE", "DECIDED BY"),
    row=lambda change: (
        change.id,
        change.kind,
        change.subject,
        _asker(change),
        time_text(change.asked_at),
        change.state,
        change.decided_by or "-",
    ),
    empty="No change waits for a second person.",
    optional=("DECIDED BY", "ASKED"),
    newest_first=True,
)
ChangeArgument = Annotated[str, typer.Argument(metavar="ID", help="As `registry approvals` lists it.")]
NoteOption = Annotated[str, typer.Option("--note", metavar="TEXT", help="Why; it stays with the change.")]


def _asker(change: ChangeView) -> str:
    same = change.asked_person in ("", change.asked_by)
    return change.asked_by if same else f"{change.asked_by} ({change.asked_person})"


@app.command("list")
@command
def list_changes(
    session: Session,
    *,
    limit: LimitOption = None,
    every: Annotated[bool, typer.Option("--all", help="Also those that are approved, denied or done.")] = False,
) -> None:
    """List what waits for a second person, newest first. Plans of rollouts: `registry rollout list`.

    ```
    registry approvals
    registry approvals list --all
    ```
    """
    query = {} if every else {"state": ChangeState.WAITING.value}
    show_list(session, _CHANGES, approvals_path(), limit=limit, query=query)


@app.command("approve")
@command
def approve(session: Session, change: ChangeArgument, *, note: NoteOption = "") -> None:
    """Approve a change of another person. It happens when whoever asked for it does the same again, within a day.

    ```
    registry approvals approve c-0123456789ab
    ```
    """
    _decide(session, change, ChangeDecision(approve=True, note=note))


@app.command("deny")
@command
def deny(session: Session, change: ChangeArgument, *, note: NoteOption = "") -> None:
    """Deny a change.

    ```
    registry approvals deny c-0123456789ab --note "not on a Friday"
    ```
    """
    _decide(session, change, ChangeDecision(approve=False, note=note))


def _decide(session: Session, change: str, body: ChangeDecision) -> None:
    view = session.client.change("POST", approval_path(change), body, ChangeView)
    what = f"{view.kind} {view.subject}, asked for by {_asker(view)}"
    then = f" It happens when {view.asked_by} does the same again." if body.approve else ""
    session.out.answer(view.to_json(), f"{'Approved' if body.approve else 'Denied'}: {what}.{then}")
