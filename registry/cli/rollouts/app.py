"""`registry rollout`: a new version to a fleet, wave by wave, stopped by what the devices themselves report.

Here is what makes a rollout, what a person may say to it, and the table of all its commands.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from registry.cli.no_match import no_match
from registry.cli.rollouts import read as rollout_read
from registry.cli.rollouts.read import (
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
from registry.cli.rollouts.spec import (
    MaxNanOption,
    PolicyOption,
    ProbationOption,
    ShadowOption,
    policy_body,
    read_spec,
    spec_of,
)
from registry.cli.rollouts.view import label, tell_plan
from registry.cli.session import Session, command
from registry.client.errors import UsageFault
from registry.contracts import paths
from registry.contracts.rollout.spec import OfflinePolicy, OnFailure
from registry.contracts.rollout.states import Command, RolloutState
from registry.contracts.rollout.views import Approval, CommandBody, PlanView, RolloutView

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Deploy a version to a fleet: plan, waves, gates, probation, rollback.

    Success means that a device was seen serving the version and stayed healthy. A failed gate pauses the rollout, and
    no other device is offered the version. A device whose own watchdog fails rolls back by itself.

    ```
    registry rollout create lenet@1.1.0 --fleet site=paris --waves 1%,10%,100%
    registry rollout status lenet-paris --watch
    registry rollout why edge-17
    registry rollout rollback lenet-paris
    ```
    """,
)
FleetOption = Annotated[
    str | None,
    typer.Option("--fleet", metavar="SELECTOR", help="By labels: site=paris,ring!=canary; 'key in (a,b)'; * is all."),
]
Groups = Annotated[list[str] | None, typer.Option("--group", metavar="GROUP", help="May be repeated.")]
Waves = Annotated[
    str | None,
    typer.Option("--waves", help="Cumulative: 1%,10%,100%; 5,50,100% (devices); ring=canary,100% (a label)."),
]
Soak = Annotated[str | None, typer.Option("--soak", help="How long a wave is watched: 30m, or one each: 30m,1h,10m.")]
RateOption = Annotated[float | None, typer.Option("--rate", metavar="N", help="Devices offered per minute.")]


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
    session.out.answer({"deleted": view.id}, f"Deleted {label(view)}.")


def _simple(session: Session, rollout: str, wanted: Command, note: str, *, force: bool = False) -> None:
    follow(
        session, command_rollout(session, get_rollout(session, rollout), wanted, force=force, note=note), watch=False
    )


@command
def create(
    session: Session,
    reference: Annotated[str, typer.Argument(metavar="MODEL@VERSION|MODEL@ALIAS")],
    *,
    fleet: FleetOption = None,
    group: Groups = None,
    device: Devices = None,
    waves: Waves = None,
    soak: Soak = None,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", metavar="KEY=VALUE", help="max_failed_pct=2, min_committed_pct=95, ..."),
    ] = None,
    rate: RateOption = None,
    max_unavailable: Annotated[
        int | None, typer.Option("--max-unavailable", min=1, help="Devices changing at once.")
    ] = None,
    probation: ProbationOption = None,
    shadow: ShadowOption = None,
    max_nan: MaxNanOption = None,
    policy: PolicyOption = None,
    on_failure: Annotated[OnFailure | None, typer.Option(help="The action of a failed gate.")] = None,
    offline: Annotated[
        OfflinePolicy | None, typer.Option(help="What happens to devices that are offline when their turn comes.")
    ] = None,
    approval: Annotated[bool, typer.Option("--approval", help="Another person must approve the plan.")] = False,
    start_at: Annotated[str | None, typer.Option("--start-at", metavar="TIME", help="2026-12-01T22:00:00Z")] = None,
    name: Annotated[str | None, typer.Option("--name", help="The rollout's name. Default: an id.")] = None,
    note: Note = "",
    draft: Annotated[
        bool, typer.Option("--draft", help="Only create and plan the rollout. Start it with rollout start.")
    ] = False,
    yes: Yes = False,
    watch: Watch = False,
) -> None:
    """Plan a rollout, show the plan, and start it after you confirm.

    The defaults are safe: waves of 1 %, 10 % and 100 % with soaking, at least one device of each kind of hardware in
    the first wave, a pause when more than 5 % fail or fall silent, and a minute of probation on every device.

    ```
    registry rollout create lenet@1.1.0 --fleet site=paris --waves 1%,10%,100% --watch
    registry rollout create lenet@1.1.0 --fleet '*' --waves ring=canary,100% --soak 1h --gate max_failed_pct=1 -y
    registry rollout create lenet@stable --group kiosks --shadow 10% --probation 10m --approval --name kiosks-7
    ```
    """
    spec = spec_of(
        reference, fleet=fleet, groups=group, devices=device, waves=waves, soak=soak, gate=gate, rate=rate,
        max_unavailable=max_unavailable, policy=policy_body(policy, probation, max_nan, shadow),
        on_failure=on_failure, offline=offline, approval=approval, start_at=start_at, name=name, note=note,
    )  # fmt: skip
    view = post(session, paths.rollouts_path(), spec).decode(RolloutView)
    _begin(session, view, draft=draft, yes=yes, watch=watch)


@command
def plan(
    session: Session,
    what: Annotated[str, typer.Argument(metavar="MODEL@VERSION|ROLLOUT")],
    *,
    fleet: FleetOption = None,
    group: Groups = None,
    device: Devices = None,
    waves: Waves = None,
    soak: Soak = None,
    rate: RateOption = None,
) -> None:
    """Show what a rollout would do, without making one; or the plan of one that exists.

    ```
    registry rollout plan lenet@1.1.0 --fleet site=paris --waves 1%,100%
    registry rollout plan kiosks-7
    ```
    """
    if "@" in what:
        spec = spec_of(what, fleet=fleet, groups=group, devices=device, waves=waves, soak=soak, rate=rate)
        answer = session.client.send("POST", paths.plans_path(), spec, repeatable=True)
        found = answer.decode(PlanView)
        reached = found.devices or found.nothing or found.already_current
        if not reached and spec.fleet.selector.strip():
            raise no_match(session, spec.fleet.selector)
    else:
        found = session.client.get(paths.rollout_plan_path(what), PlanView)
    if session.out.as_json:
        session.out.document(found)
    else:
        tell_plan(session.out, found)


@command
def apply(
    session: Session,
    file: Annotated[Path, typer.Option("--file", "-f", metavar="FILE", help="TOML or JSON; - is standard input.")],
    *,
    draft: Annotated[bool, typer.Option("--draft", help="Do not start it.")] = False,
    watch: Watch = False,
) -> None:
    """Make sure that the rollout of this file exists and runs. The same file again changes nothing.

    Different content under the same name is refused, with the differences, because a rollout is never edited.

    ```
    registry rollout apply -f rollouts/kiosks-7.toml --watch
    ```
    """
    spec = read_spec(file)
    answer = session.client.send("PUT", paths.rollout_path(str(spec.name)), spec, repeatable=True)
    view = answer.decode(RolloutView)
    if view.state is RolloutState.DRAFT and not draft:
        view = command_rollout(session, view, Command.SUBMIT)
    follow(session, view, watch=watch)


def _begin(session: Session, view: RolloutView, *, draft: bool, yes: bool, watch: bool) -> None:
    """After a draft was made: show its plan, ask, start it."""
    plan_view = session.client.get(paths.rollout_plan_path(view.id), PlanView)
    if not session.out.as_json:
        tell_plan(session.out, plan_view)
        session.out.say("")
    asks = not yes and not session.out.as_json and sys.stdin.isatty()
    if draft or not (yes or asks):
        session.out.answer(view, f"{label(view)} is a draft. Start it: registry rollout start {label(view)}")
        return
    if asks and not typer.confirm(f"Start rollout {label(view)}?"):
        session.out.say(f"It stays a draft. Start it later: registry rollout start {label(view)}")
        return
    follow(session, command_rollout(session, view, Command.SUBMIT), watch=watch)


@command
def start(session: Session, rollout: Rollout, *, watch: Watch = False) -> None:
    """Start a draft. Its plan is frozen; it then runs, or waits for approval or its start time."""
    follow(session, command_rollout(session, get_rollout(session, rollout), Command.SUBMIT), watch=watch)


COMMANDS = (
    create,
    plan,
    apply,
    start,
    approve,
    deny,
    pause,
    resume,
    abort,
    rollback,
    retry,
    delete,
    rollout_read.show_all,
    rollout_read.status,
    rollout_read.devices,
    rollout_read.why,
    rollout_read.history,
)
for _each in COMMANDS:
    app.command("list" if _each is rollout_read.show_all else _each.__name__)(_each)
app.command(Command.SUBMIT.value, hidden=True)(start)  # what the API calls it, and what a status says one may do
