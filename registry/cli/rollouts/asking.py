"""What the commands of `registry rollout` share: finding a rollout, sending a command once, following it to its end."""

from __future__ import annotations

import secrets
import sys
import time
from typing import Annotated

import typer

from registry.cli.output import CliError, ExitCode
from registry.cli.rollouts.view import FOR_A_PERSON, OVER, label, status_line, tell_status
from registry.cli.session import Session
from registry.client.api import ApiAnswer
from registry.client.errors import NoAnswerError, ProblemError
from registry.contracts import paths
from registry.contracts.codes import ReasonCode
from registry.contracts.rollout.states import Command, RolloutState
from registry.contracts.rollout.views import IDEMPOTENCY_KEY, CommandBody, RolloutView
from registry.contracts.wire import Wire

POLL_S = 1.0
PLAN_POLL_S = 0.2
PLAN_S = 120.0
"""How long a command waits for its plan; 100,000 devices take seconds."""

Rollout = Annotated[str, typer.Argument(metavar="ROLLOUT", help="Its name or id.")]
Note = Annotated[str, typer.Option("--note", help="The reason, kept in the history.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Follow it until it is over or waits for a person.")]
Devices = Annotated[list[str] | None, typer.Option("--device", "-d", metavar="DEVICE", help="May be repeated.")]


def get_rollout(session: Session, rollout: str) -> RolloutView:
    """By name or id."""
    return session.client.get(paths.rollout_path(rollout), RolloutView)


def post(session: Session, path: str, body: Wire) -> ApiAnswer:
    """A POST that may be sent again after a lost answer: its key makes the second the first."""
    key = {IDEMPOTENCY_KEY: secrets.token_hex(16)}
    return session.client.send("POST", path, body, headers=key, repeatable=True)


def command_rollout(
    session: Session,
    view: RolloutView,
    wanted: Command,
    *,
    force: bool = False,
    devices: tuple[str, ...] = (),
    note: str = "",
) -> RolloutView:
    """Sends a command for the revision that was seen; once more when it moved on meanwhile in the same state."""
    for last in (False, True):
        body = CommandBody(command=wanted, revision=view.revision, force=force, devices=devices, note=note)
        try:
            return post(session, paths.rollout_commands_path(view.id), body).decode(RolloutView)
        except ProblemError as problem:
            newer = get_rollout(session, view.id)
            if last or problem.code != "precondition_failed" or newer.state is not view.state:
                raise
            view = newer
    raise AssertionError("a loop of two ends by returning or raising")


def make_sure(session: Session, question: str, *, yes: bool) -> None:
    """Asks a person at a terminal; programs said it with the command."""
    if not yes and not session.out.as_json and sys.stdin.isatty():
        typer.confirm(question, abort=True)


def planned(session: Session, view: RolloutView) -> RolloutView:
    """The rollout once its plan is there, or as it is after PLAN_S. Raises CliError when planning failed."""
    if view.state is not RolloutState.PLANNING:
        return view
    session.out.note(status_line(view))
    deadline = time.monotonic() + PLAN_S
    now = view
    while now.state is RolloutState.PLANNING and time.monotonic() < deadline:
        time.sleep(PLAN_POLL_S)
        now = get_rollout(session, view.id)
    if now.reason.code is ReasonCode.PLAN_FAILED:
        raise CliError(
            f"{label(now)} was not planned: {now.reason.text}. It is {now.state}.",
            code="plan_failed",
            hint=f"See who gets nothing and why: registry rollout plan {label(now)}",
        )
    return now


def follow(session: Session, view: RolloutView, *, watch: bool, success: RolloutState = RolloutState.SUCCEEDED) -> None:
    """Tells where it is, once it is planned; with `watch` until it is over or waits for a person, and the exit code
    says whether it ended in `success`."""
    view = planned(session, view)
    if not watch:
        session.out.answer(view, status_line(view))
        return
    told = ""
    while True:
        if status_line(view) != told:
            told = status_line(view)
            session.out.note(told)
        if view.state in OVER or view.state in FOR_A_PERSON:
            break
        time.sleep(POLL_S)
        try:
            view = get_rollout(session, view.id)
        except NoAnswerError as error:
            session.out.note(f"  {error.what}; still trying")
    if session.out.as_json:
        session.out.document(view)
    else:
        tell_status(session.out, view, session.now())
    if view.state is not success:
        raise typer.Exit(ExitCode.FAILURE)
