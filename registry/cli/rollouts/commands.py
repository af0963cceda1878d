"""What a person may say to a rollout: approve, deny, pause, resume, abort, roll back, retry, delete."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.rollouts.asking import (
    Devices,
    Note,
    Rollout,
    Watch,
    Yes,
    command_rollout,
    follow,
    get_rollout,
    make_sure,
    post,
)
from registry.cli.rollouts.view import label, tell_plan
from registry.cli.session import Session, command
from registry.client.errors import UsageFault
from registry.contracts import paths
from registry.contracts.rollout.states import Command, RolloutState
from registry.contracts.rollout.views import Approval, CommandBody, PlanView, RolloutView


@command
def approve(session: Session, rollout: Rollout, *, yes: Yes = False, note: Note = "") -> None:
    """Approve the plan that is shown. The approval holds for this plan only."""
    _decide(session, rollout, approve=True, yes=yes, note=note)


@command
def deny(session: Session, rollout: Rollout, *, yes: Yes = False, note: Note = "") -> None:
    """Deny the plan: no device gets it. The rollout may be changed and submitted again."""
    _decide(session, rollout, approve=False, yes=yes, note=note)


def _decide(session: Session, rollout: str, *, approve: bool, yes: bool, note: str) -> None:
    view = get_rollout(session, rollout)
    plan_view = session.client.get(paths.rollout_plan_path(view.id), PlanView)
    if not session.out.as_json:
        tell_plan(session.out, plan_view)
    if not yes and not session.out.as_json:
        typer.confirm(f"{'Approve' if approve else 'Deny'} plan {plan_view.digest[7:19]}?", abort=True)
    body = Approval(plan=plan_view.digest, revision=view.revision, approve=approve, note=note)
    follow(session, post(session, paths.rollout_approval_path(view.id), body).decode(RolloutView), watch=False)


@command
def pause(session: Session, rollout: Rollout, *, note: Note = "") -> None:
    """Pause a rollout. No other device is offered the version, and no device commits it.

    Devices that were offered it are held: staged before the switch, in probation after it. With hold = "none" in the
    spec they continue."""
    _simple(session, rollout, Command.PAUSE, note)


@command
def resume(
    session: Session,
    rollout: Rollout,
    *,
    force: Annotated[bool, typer.Option("--force", help="The current wave passes, whatever its gate says.")] = False,
    note: Note = "",
) -> None:
    """Continue after a pause. The failures so far are accepted, and the gate counts from zero again."""
    _simple(session, rollout, Command.RESUME, note, force=force)


@command
def abort(session: Session, rollout: Rollout, *, yes: Yes = False, note: Note = "") -> None:
    """End a rollout. Devices that have not switched keep what they serve; the others keep the new version (see
    rollback)."""
    make_sure(session, f"Abort rollout {rollout}?", yes=yes)
    _simple(session, rollout, Command.ABORT, note)


@command
def rollback(session: Session, rollout: Rollout, *, yes: Yes = False, note: Note = "", watch: Watch = False) -> None:
    """Return every device to its own last good version, from its own disk, without a download."""
    make_sure(session, f"Roll back {rollout}: every device returns to what it served before?", yes=yes)
    view = command_rollout(session, get_rollout(session, rollout), Command.ROLLBACK, note=note)
    follow(session, view, watch=watch, success=RolloutState.ROLLED_BACK)


@command
def retry(
    session: Session,
    rollout: Rollout,
    *,
    failed: Annotated[bool, typer.Option("--failed", help="All devices that failed or fell silent.")] = False,
    device: Devices = None,
    note: Note = "",
    watch: Watch = False,
) -> None:
    """Offer the version again to devices that failed, in a new generation of the same rollout. The history stays.

    ```
    registry rollout retry kiosks-7 --failed
    registry rollout retry kiosks-7 --device edge-17
    ```
    """
    if failed == bool(device):
        raise UsageFault("Which devices?", hint="Give --failed for all that failed, or --device for each one.")
    view = get_rollout(session, rollout)
    follow(session, command_rollout(session, view, Command.RETRY, note=note, devices=tuple(device or ())), watch=watch)


@command
def delete(session: Session, rollout: Rollout, *, yes: Yes = False) -> None:
    """Delete a draft, or a rollout that is over, with its history. The devices keep what they serve."""
    make_sure(session, f"Delete {rollout}?", yes=yes)
    view = get_rollout(session, rollout)
    post(session, paths.rollout_commands_path(view.id), CommandBody(command=Command.DELETE, revision=view.revision))
    if session.out.as_json:
        session.out.document({"deleted": view.id})
    else:
        session.out.say(f"Deleted {label(view)}.")


def _simple(session: Session, rollout: str, wanted: Command, note: str, *, force: bool = False) -> None:
    follow(
        session, command_rollout(session, get_rollout(session, rollout), wanted, force=force, note=note), watch=False
    )
