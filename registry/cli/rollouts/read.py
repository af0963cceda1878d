"""Looking at rollouts: the list, where one is, its devices, why one of them waits, what happened."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.output import CliError
from registry.cli.rollouts.asking import Rollout, Watch, follow, get_rollout
from registry.cli.rollouts.view import (
    COLUMNS,
    OVER,
    label,
    tell_device,
    tell_devices,
    tell_history,
    tell_list,
    tell_status,
)
from registry.cli.session import Session, command
from registry.contracts import paths
from registry.contracts.rollout.views import ActionView, HistoryEntry, RolloutView
from registry.core.rollouts.actions import ORDER as IN_FLIGHT

MAX_WAITED_FOR = 3
"""Devices that a status names."""


@command
def show_all(
    session: Session,
    *,
    model: Annotated[str | None, typer.Option("--model", help="Only of this model.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="Only in this state: running, paused, ...")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000)] = 50,
) -> None:
    """List rollouts, newest first."""
    views = session.client.items(paths.rollouts_path(), RolloutView, limit, model=model, state=state)
    tell_list(session.out, views, session.now())


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
        tell_devices(session.out, found, session.now())


@command
def devices(
    session: Session,
    rollout: Rollout,
    *,
    state: Annotated[str | None, typer.Option("--state", help="Only in this state: failed, probation, ...")] = None,
    trouble: Annotated[bool, typer.Option("--trouble", help="Only those that failed or fell silent.")] = False,
    wave: Annotated[int | None, typer.Option("--wave", min=1, help="Only of this wave.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000)] = 200,
) -> None:
    """List the devices of a rollout, each with its state and the reason."""
    states = [state] if state else [None]
    if trouble:
        states = [str(each) for each in sorted(COLUMNS["FAILED"] | COLUMNS["UNKNOWN"])]
    path = paths.rollout_devices_path(rollout)
    index = None if wave is None else wave - 1
    found: list[ActionView] = []
    for each in states:
        if len(found) < limit:
            found += session.client.items(path, ActionView, limit - len(found), state=each, wave=index)
    tell_devices(session.out, found, session.now())


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
    named = ((view, _action(session, view, device)) for view in views)
    return [(view, action) for view, action in named if action is not None]


def _action(session: Session, view: RolloutView, device: str) -> ActionView | None:
    return session.client.find(paths.rollout_device_path(view.id, device), ActionView)


@command
def history(session: Session, rollout: Rollout) -> None:
    """Show every transition of a rollout, newest first: who, when, why."""
    entries = session.client.items(paths.rollout_history_path(rollout), HistoryEntry, 1000)
    tell_history(session.out, entries)
