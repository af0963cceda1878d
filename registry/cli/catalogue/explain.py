"""`registry explain`: which variant of a version a device would run, and why not the others.

`registry coverage` says it for a fleet, one line for each class of devices with the same facts.
"""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.fleet.selection import (
    BehindOption,
    FailingOption,
    FleetOption,
    NameOption,
    ServesOption,
    StateOption,
    nothing_matches,
    selection,
    summary_of,
)
from registry.cli.output import CliError, ExitCode, age_text, short
from registry.cli.session import Session, command
from registry.cli.withdrawn import warn_withdrawn
from registry.client.errors import ProblemError, UsageFault
from registry.client.versions import fetch_manifest, find_version, split_reference
from registry.contracts.api.devices import DeviceView
from registry.contracts.catalogue.batching import batching_text
from registry.contracts.catalogue.manifest import Manifest
from registry.contracts.codes import ON_DEVICE, known
from registry.contracts.device.messages import Fault
from registry.contracts.fit.choices import MAX_VALUE, SETTABLE, ClassCoverage, CoverageView, ResolutionView, ResolveBody
from registry.contracts.fit.platforms import FactRow
from registry.contracts.fit.resolution import FitOutcome, Reason, VariantVerdict
from registry.contracts.paths import coverage_path, device_path, resolve_path
from registry.contracts.texts import how_many, size_text

SHOWN = 3
"""Devices of a class that stand in the table."""


@command
def coverage(
    session: Session,
    reference: Annotated[str, typer.Argument(metavar="MODEL[@REF]")],
    *,
    fleet: FleetOption = None,
    state: StateOption = None,
    serves: ServesOption = None,
    failing: FailingOption = None,
    behind: BehindOption = False,
    name: NameOption = None,
) -> None:
    """Show which variant each class of devices would run, and which devices can run none and why.

    Devices with the same facts form a class. Degraded: the variant would run on the CPU of a host that has an
    accelerator. Exit code 1: some devices can run no variant.

    ```
    registry coverage lenet@1.1.0
    registry coverage lenet@stable --fleet site=paris --serves lenet@1.0.0
    registry coverage lenet@stable --json | jq '.classes[] | select(.chosen == null)'
    ```
    """
    found = find_version(session.client, *split_reference(reference))
    warn_withdrawn(session.out, found)
    chosen = selection(fleet, state, serves, failing, behind=behind, name=name)
    summary = summary_of(session, chosen) if chosen.is_filter else None
    view = session.client.get(coverage_path(found.model, found.version), CoverageView, **chosen.query.to_json())
    if chosen.is_filter and not view.devices:
        raise nothing_matches(session, chosen, summary)
    if session.out.as_json:
        session.out.document(view)
    else:
        _tell_coverage(session, view, " that match" if chosen.is_filter else "")
    if view.without:
        raise typer.Exit(ExitCode.FAILURE)


def _tell_coverage(session: Session, view: CoverageView, of: str) -> None:
    say = session.out.say
    runs = view.devices - view.without - view.silent
    where = f"{view.model}@{view.version} on {how_many(view.devices, 'device')}{of}"
    say(f"{where}: {runs} would run it,")
    say(f"{view.without} can run no variant, {view.degraded} leave an accelerator idle, {view.silent} are not known.\n")
    session.out.table(
        ("CLASS", ">DEVICES", "VARIANT", "NOTE", "HOSTS", "WHAT IT IS"),
        (_class_row(item) for item in view.classes),
        empty="No device that matches has told what it is.",
        optional=("NOTE", "WHAT IT IS"),
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


def _class_row(item: ClassCoverage) -> tuple[object, ...]:
    note = "nothing fits" if item.chosen is None else "degraded" if item.degraded else ""
    hosts = _some(item.names, item.devices)
    return short(item.facts_digest), item.devices, item.chosen or "-", note, hosts, item.title


def _some(names: tuple[str, ...], count: int) -> str:
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


@command
def explain(
    session: Session,
    device: Annotated[str, typer.Argument(metavar="DEVICE")],
    reference: Annotated[str, typer.Argument(metavar="MODEL[@REF]")],
    *,
    variant: Annotated[str | None, typer.Option("--variant", help="Consider this variant only.")] = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if", metavar="FACT=VALUE", help="With another fact; may be repeated: " + ", ".join(SETTABLE)
        ),
    ] = None,
    facts: Annotated[bool, typer.Option("--facts", help="Show every fact with its source and age.")] = False,
) -> None:
    """Show which variant a device would run, why the others do not fit, and what stopped it, with stable codes.

    The nearest miss is the better variant for which the fewest facts would have to change. --what-if shows the choice
    with other facts and changes nothing. Exit code 1: no variant fits.

    ```
    registry explain edge-1 lenet@1.0.0
    registry explain edge-1 lenet@stable --what-if cann=8.2 --what-if memory=8GiB
    registry explain edge-1 lenet --facts
    registry explain edge-1 lenet@stable --json
    ```
    """
    found = find_version(session.client, *split_reference(reference))
    warn_withdrawn(session.out, found)
    asked = ResolveBody(
        model=found.model, version=found.version, device=device, variant=variant, what_if=_changes(what_if)
    )
    view = _resolved(session, asked, device)
    batching = _batching(view, fetch_manifest(session.client, found))
    fault = None if what_if else _fault(session.client.get(device_path(device), DeviceView), view)
    row = known(fault.code, ON_DEVICE) if fault is not None else None
    if session.out.as_json:
        said = {"fault": fault.to_json()} if fault is not None else {}
        means = {"meaning": row.meaning, "action": row.action} if row is not None else {}
        session.out.document(view.to_json() | {"batching": batching} | said | means)
    else:
        _tell(session, view, device)
        if fault is not None:
            session.out.say(f"\n{device} says {fault.code}: {fault.message}")
        if row is not None:
            session.out.say(f"{row.meaning} {row.action}")
        if batching:
            session.out.say(f"\nBatching: {batching}.")
        _tell_facts(session, view, whole=facts)
    if view.resolution.chosen is None:
        raise typer.Exit(ExitCode.FAILURE)


def _resolved(session: Session, asked: ResolveBody, device: str) -> ResolutionView:
    try:
        return session.client.change("POST", resolve_path(), asked, ResolutionView, repeatable=True)
    except ProblemError as problem:
        view = session.client.find(device_path(device), DeviceView) if problem.code == "conflict" else None
        if view is None or view.facts is not None:
            raise
        seen = age_text(view.last_seen, session.now())
        hint = f"Start its agent on its host (agent run), then ask again. It was seen last: {seen}."
        raise CliError(problem.what, code="conflict", hint=hint) from None


def _fault(device: DeviceView, view: ResolutionView) -> Fault | None:
    """Why this version does not serve on the device, or waits, as the device said last; None: it does not say."""
    slot = device.reported.models.get(view.model) if device.reported is not None else None
    if slot is None or slot.desired_version != view.version:
        return None
    progress = slot.deployment
    if slot.fault is not None or progress is None or not progress.code:
        return slot.fault
    return Fault(code=progress.code, message=progress.message)


def _changes(given: list[str] | None) -> dict[str, str]:
    """Checked here too: a misspelt fact is a wrong command line."""
    changes: dict[str, str] = {}
    for text in given or []:
        name, _, value = (part.strip() for part in text.partition("="))
        if name not in SETTABLE or not value:
            examples = "; ".join(f"{name}={example}" for name, (_, example) in SETTABLE.items())
            raise UsageFault(f"--what-if {text!r} is not FACT=VALUE with a known fact", hint=examples)
        if len(value) > MAX_VALUE:
            raise UsageFault(f"--what-if {name}={value[:64]!r}...: a value has at most {MAX_VALUE} characters")
        changes[name] = value
    return changes


def _tell(session: Session, view: ResolutionView, device: str) -> None:
    what, resolution = f"{view.model}@{view.version}", view.resolution
    imagined = ", ".join(f"{name}={value}" for name, value in sorted(view.what_if.items()))
    if imagined:
        session.out.say(f"If {device} had {imagined}:")
    if resolution.chosen is None:
        session.out.say(f"{device} can run no variant of {what}.")
    else:
        idle = ", on the CPU although it has an accelerator" if resolution.degraded else ""
        session.out.say(f"{device} would run variant {resolution.chosen} of {what}{idle}.")
    if resolution.conflict is not None:
        session.out.say(f"{resolution.conflict}: other variants fit, but not the one that was asked for.")
    if resolution.tie:
        session.out.say(
            f"A tie: {', '.join(resolution.tie)} would do as well, and no speeds were measured on such hosts. What was "
            "published goes before what was converted, then the name decides; --variant pins another."
        )
    session.out.say("")
    session.out.table(
        ("VARIANT", "VERDICT", "CODE", "NEEDS", "HOST HAS"),
        (row for verdict in resolution.verdicts for row in _rows(verdict, chosen=resolution.chosen)),
        empty="The version has no variants.",
        optional=("HOST HAS",),
    )
    nearest = resolution.verdict(resolution.nearest) if resolution.nearest else None
    if nearest is not None:
        steps = "; ".join(reason.remedy or reason.code.action for reason in nearest.reasons)
        session.out.say(f"\nNearest miss: {nearest.variant}: {steps}.")


def _batching(view: ResolutionView, manifest: Manifest) -> str:
    """Whether requests to the chosen variant may be joined, and why; empty: none was chosen."""
    variant = manifest.variant(view.resolution.chosen) if view.resolution.chosen else None
    return batching_text(variant.batching) if variant is not None else ""


def _tell_facts(session: Session, view: ResolutionView, *, whole: bool) -> None:
    now = session.now()
    when = f"told {age_text(view.facts_at, now)}" if view.facts_at else "not told by a device"
    agent = f" by agent {view.facts.agent_version}" if view.facts.agent_version else ""
    session.out.say(f"\nFacts {short(view.facts_digest)}, {when}{agent}.")
    if not whole:
        return
    session.out.table(
        ("FACT", "VALUE", "AGE", "SOURCE", "REASON"),
        (
            (row.name, _value(row), age_text(row.evidence.observed_at, now), row.evidence.source, row.evidence.reason)
            for row in view.facts.rows()
        ),
        empty="",
        optional=("REASON", "SOURCE"),
    )


def _value(row: FactRow) -> str:
    if row.value is None:
        return "no"
    return size_text(row.value) if row.name.endswith("_bytes") else str(row.value)


def _rows(verdict: VariantVerdict, chosen: str | None) -> list[tuple[object, ...]]:
    if verdict.outcome is FitOutcome.PASS:
        word = "chosen" if verdict.variant == chosen else "fits, ranked lower"
        first: tuple[object, ...] = (verdict.variant, word, "", "", verdict.backend)
        return [first, *(_row(verdict, "  warning", reason) for reason in verdict.warnings)]
    word = "rejected" if verdict.outcome is FitOutcome.FAIL else "unknown"
    return [_row(verdict, word, reason) for reason in verdict.reasons]


def _row(verdict: VariantVerdict, word: str, reason: Reason) -> tuple[object, ...]:
    return verdict.variant, word, reason.code, reason.need, reason.have
