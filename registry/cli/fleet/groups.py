"""`registry group`: named sets of devices for rollouts, by label, by name, or both."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.list_group import list_group
from registry.cli.listing import LimitOption, Listing, show_list, sort_option
from registry.cli.no_match import no_match
from registry.cli.output import age_text
from registry.cli.session import Session, command, confirm
from registry.client.errors import UsageFault
from registry.contracts.paths import group_path, groups_path
from registry.contracts.rollout.spec import GroupBody, GroupView
from registry.contracts.texts import how_many

app = list_group("Manage named sets of devices for rollouts.")
Group = Annotated[str, typer.Argument(metavar="GROUP")]


def _row(group: GroupView) -> tuple[object, ...]:
    named, age = len(group.devices), age_text(group.changed_at, Session.now())
    return group.name, group.count, group.selector or "-", named, age, group.note


_GROUPS = Listing(
    of=GroupView,
    noun="group",
    columns=("GROUP", ">DEVICES", "SELECTOR", ">NAMED", "CHANGED", "NOTE"),
    row=_row,
    empty="There are no groups. Make one: registry group set kiosks --selector kind=kiosk",
    optional=("NAMED", "CHANGED", "NOTE"),
    orders={
        "name": lambda group: group.name,
        "devices": lambda group: group.count,
        "changed": lambda group: group.changed_at,
    },
)


@app.command("list")
@command
def list_groups(
    session: Session,
    *,
    limit: LimitOption = None,
    sort: Annotated[str | None, sort_option(_GROUPS.orders, "name")] = None,
) -> None:
    """List the groups.

    ```
    registry group list --sort devices
    ```
    """
    show_list(session, _GROUPS, groups_path(), limit=limit, sort=sort)


@app.command("set")
@command
def set_group(
    session: Session,
    group: Group,
    *,
    selector: Annotated[str, typer.Option("--selector", help="By labels: site=paris,ring!=canary.")] = "",
    device: Annotated[list[str] | None, typer.Option("--device", "-d", help="By name; may be repeated.")] = None,
    note: Annotated[str, typer.Option("--note", help="What it is for.")] = "",
) -> None:
    """Create or change a group.

    ```
    registry group set kiosks --selector kind=kiosk,site=paris
    registry group set lab -d edge-1 -d edge-2
    ```
    """
    if not selector and not device:
        raise UsageFault("Which devices?", hint="Give --selector, --device, or both.")
    body = GroupBody(selector=selector, devices=tuple(device or ()), note=note)
    view = session.client.change("PUT", group_path(group), body, GroupView, repeatable=True)
    if selector and not view.count:
        session.out.warn(f"{view.name} has no device yet: {no_match(session, selector).hint}")
    session.out.answer(view, f"Group {view.name} has {how_many(view.count, 'device')} now.")


@app.command("remove")
@command
def remove(
    session: Session, group: Group, *, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Remove a group; its devices stay. Refused while a rollout that is not over names it."""
    confirm(session, f"Remove group {group}?", yes=yes)
    session.client.send("DELETE", group_path(group))
    session.out.answer({"removed": group}, f"Removed group {group}.")
