"""Finding, following and looking at rollouts: the list, where one is, its devices, why one waits, what happened.

The commands that change a rollout use it, too: a command is sent once, and the rollout followed to its end.
"""

from __future__ import annotations

import secrets
import sys
import time
from typing import Annotated

import typer

from registry.cli.listing import Asked, first_option, newest_option, show_list, sort_option
from registry.cli.output import CliError, ExitCode
from registry.cli.rollouts.view import (
    ACTION_ORDERS,
    FOR_A_PERSON,
    HISTORY,
    OVER,
    ROLLOUT_ORDERS,
    device_list,
    label,
    rollout_list,
    status_line,
    tell_device,
    tell_status,
)
from registry.cli.session import Session, command
from registry.client.api import ApiAnswer
from registry.client.errors import NoAnswerError, ProblemError
from registry.contracts import paths
from registry.contracts.codes import ReasonCode
from registry.contracts.rollout.states import ActionState, Command, RolloutState
from registry.contracts.rollout.views import IDEMPOTENCY_KEY, ActionView, CommandBody, RolloutView
from registry.contracts.wire import Wire
from registry.core.rollouts.actions import ORDER as IN_FLIGHT
from registry.core.rollouts.columns import BACK

POLL_S = 1.0
PLAN_POLL_S = 0.2
PLAN_S = 120.0
"""How long a command waits for its plan; 100,000 devices take seconds."""

Rollout = Annotated[str, typer.Argument(metavar="ROLLOUT", help="Its name or id.")]
Note = Annotated[str, typer.Option("--note", help="The reason, kept in the history.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Follow it until it is over or waits for a person.")]
Devices = Annotated[list[str] | None, typer.Option("--device", "-d", metavar="DEVICE", help="May be repeated.")]


LISTED, DEVICES_LISTED, HISTORY_LISTED = 50, 200, 1000
"""Without --limit."""
MAX_WAITED_FOR = 3
"""Devices that a status names."""


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


@command
def show_all(
    session: Session,
    *,
    model: Annotated[str | None, typer.Option("--model", help="Only of this model.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="Only in this state: running, paused, ...")] = None,
    limit: Annotated[int | None, newest_option(LISTED)] = None,
    sort: Annotated[str | None, sort_option(ROLLOUT_ORDERS, "the newest first")] = None,
) -> None:
    """List rollouts, newest first.

    ```
    registry rollout list --model lenet
    registry rollout list --sort trouble --limit 10
    ```
    """
    asked: dict[str, Asked] = {"model": model, "state": state}
    listing = rollout_list(session.now())
    show_list(session, listing, paths.rollouts_path(), limit=limit, default=LISTED, sort=sort, query=asked)


@command
def status(session: Session, rollout: Rollout, *, watch: Watch = False) -> None:
    """Show a rollout: its waves, gates, why it waits, and the allowed commands.

    With --watch: exit code 0 when it succeeded, 1 when it ended otherwise or waits for a person.
    """
    view = get_rollout(session, rollout)
    if watch:
        follow(session, view, watch=True)
    elif session.out.as_json:
        session.out.document(view)
    else:
        tell_status(session.out, view, session.now())
        _tell_whom_it_waits_for(session, view)


def _tell_whom_it_waits_for(session: Session, view: RolloutView) -> None:
    """The first devices that are under way, each with why: a rollout that stands still waits for one of them."""
    found: list[ActionView] = []
    path = paths.rollout_devices_path(view.id)
    for state in (state for state in IN_FLIGHT if view.counts.get(state)):
        if len(found) < MAX_WAITED_FOR:
            found += session.client.items(path, ActionView, MAX_WAITED_FOR - len(found), state=str(state))
    if found and view.state not in OVER:
        session.out.say("It waits for (3 at most are named):")
        listing = device_list(view, session.now())
        session.out.table(listing.columns, map(listing.row, found), listing.empty, optional=listing.optional)


@command
def devices(
    session: Session,
    rollout: Rollout,
    *,
    state: Annotated[
        str | None, typer.Option("--state", help="Only in this state: failed, probation, back, ...")
    ] = None,
    trouble: Annotated[
        bool,
        typer.Option("--trouble", help="Only those that failed or fell silent, now or before the rollout went back."),
    ] = False,
    wave: Annotated[int | None, typer.Option("--wave", min=1, help="Only of this wave.")] = None,
    limit: Annotated[int | None, first_option(DEVICES_LISTED)] = None,
    sort: Annotated[str | None, sort_option(ACTION_ORDERS, "device")] = None,
) -> None:
    """List the devices of a rollout, each with its state and the reason.

    A device that the rollout took back is `back` once it serves its last good version. Its wave and code are those of
    when it was told to go back.

    ```
    registry rollout devices kiosks-7 --trouble
    registry rollout devices kiosks-7 --state back --wave 2
    ```
    """
    returned = state == BACK.lower()
    asked: dict[str, Asked] = {"wave": None if wave is None else wave - 1, "state": state}
    if returned:
        asked |= {"state": str(ActionState.COMMITTED), "back": "true"}
    elif state == ActionState.COMMITTED:
        asked["back"] = "false"
    if trouble:
        asked["trouble"] = "true"
    listing = device_list(get_rollout(session, rollout), session.now())
    path = paths.rollout_devices_path(rollout)
    show_list(session, listing, path, limit=limit, default=DEVICES_LISTED, sort=sort, query=asked)


@command
def why(
    session: Session,
    device: Annotated[str, typer.Argument(metavar="DEVICE")],
    *,
    rollout: Annotated[str | None, typer.Option("--rollout", help="Default: every rollout that is not over.")] = None,
) -> None:
    """Show why a device waits or failed, who or what can unblock it, and what it reported.

    ```
    registry rollout why edge-17
    registry rollout why edge-17 --rollout kiosks-7
    ```
    """
    wanted = (
        [get_rollout(session, rollout)] if rollout else session.client.items(paths.rollouts_path(), RolloutView, 200)
    )
    current = [view for view in wanted if rollout or view.state not in OVER]
    found = _those_with(session, current, device)
    if not found:  # In none that runs: the newest that is over says what happened last.
        found = _those_with(session, [view for view in wanted if view not in current], device)[:1]
    if not found:
        where = f"rollout {rollout}" if rollout else "any of the newest rollouts"
        raise CliError(f"{device} is not in {where}", code="not_found", hint="See: registry rollout list")
    if session.out.as_json:
        session.out.document([{"rollout": view.id, "name": view.spec.name, "device": a} for view, a in found])
        return
    for view, action in found:
        tell_device(session.out, label(view), action, session.now())


def _those_with(session: Session, views: list[RolloutView], device: str) -> list[tuple[RolloutView, ActionView]]:
    named = ((view, session.client.find(paths.rollout_device_path(view.id, device), ActionView)) for view in views)
    return [(view, action) for view, action in named if action is not None]


@command
def history(
    session: Session,
    rollout: Rollout,
    *,
    limit: Annotated[int | None, newest_option(HISTORY_LISTED)] = None,
) -> None:
    """Show every transition of a rollout, newest first: who, when, why."""
    show_list(session, HISTORY, paths.rollout_history_path(rollout), limit=limit, default=HISTORY_LISTED)
