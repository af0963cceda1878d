"""`registry coverage`: what a version means for a fleet, one line for each class of devices with the same facts."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.output import ExitCode, short
from registry.cli.session import Session, command
from registry.client.versions import find_version, split_reference
from registry.contracts.fit.choices import ClassCoverage, CoverageView
from registry.contracts.paths import coverage_path
from registry.contracts.texts import how_many

FleetOption = Annotated[
    str, typer.Option("--fleet", metavar="SELECTOR", help="Devices by label: site=paris,ring!=canary; else all.")
]
SHOWN = 3
"""Devices of a class that stand in the table."""


@command
def coverage(
    session: Session,
    reference: Annotated[str, typer.Argument(metavar="MODEL[@REF]")],
    *,
    fleet: FleetOption = "",
) -> None:
    """Show which variant each class of devices would run, and which devices can run none and why.

    Devices with the same facts form a class. Degraded: the variant would run on the CPU of a host that has an
    accelerator. Exit code 1: some devices can run no variant.

    ```
    registry coverage lenet@1.1.0
    registry coverage lenet@stable --fleet site=paris
    registry coverage lenet@stable --json | jq '.classes[] | select(.chosen == null)'
    ```
    """
    model, version = split_reference(reference)
    found = find_version(session.client, model, version)
    view = session.client.get(coverage_path(model, found.version), CoverageView, selector=fleet or None)
    if session.out.as_json:
        session.out.document(view)
    else:
        _tell(session, view)
    if view.without:
        raise typer.Exit(ExitCode.FAILURE)


def _tell(session: Session, view: CoverageView) -> None:
    say = session.out.say
    runs = view.devices - view.without - view.silent
    say(f"{view.model}@{view.version} on {how_many(view.devices, 'device')} ({view.selector}): {runs} would run it,")
    say(f"{view.without} can run no variant, {view.degraded} leave an accelerator idle, {view.silent} are not known.\n")
    session.out.table(
        ("CLASS", ">DEVICES", "VARIANT", "NOTE", "HOSTS", "WHAT IT IS"),
        (_row(item) for item in view.classes),
        empty="No device that matches has told what it is.",
    )
    if view.more_classes:
        say(f"... and {view.more_classes} smaller classes, which are not counted above.")
    if view.silent_names:
        say(f"\nNot known yet: {_some(view.silent_names, view.silent)}.")
    unused = [name for name, devices in view.variants.items() if devices == 0]
    if unused and view.classes:
        say(f"\nNo device would run: {', '.join(unused)}.")
    for item in view.classes:
        if item.chosen is None:
            say(f"\n{short(item.facts_digest)} ({_some(item.names, item.devices)}) can run nothing:")
            say("\n".join(f"  {line}" for line in item.why))
            if item.remedy:
                say(f"  Nearest miss: {item.nearest}: {item.remedy}.")


def _row(item: ClassCoverage) -> tuple[object, ...]:
    note = "nothing fits" if item.chosen is None else "degraded" if item.degraded else ""
    hosts = _some(item.names, item.devices)
    return short(item.facts_digest), item.devices, item.chosen or "-", note, hosts, item.title


def _some(names: tuple[str, ...], count: int) -> str:
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
