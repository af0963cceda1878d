"""Which devices a command shows, in which order: the options that lists of devices share, and the line above them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer

from registry.cli.listing import no_order
from registry.cli.no_match import no_match
from registry.cli.output import CliError
from registry.cli.session import Session
from registry.client.errors import ClientError, ProblemError, UsageFault
from registry.client.fleet import each_device, fleet_summary
from registry.contracts.api.devices import DeviceQuery, DeviceView
from registry.contracts.api.fleet import ConnectionState, DeviceSort, FleetSummary, SlotState
from registry.contracts.texts import how_many

PANEL = "Which devices"
FleetOption = Annotated[
    str | None,
    typer.Option(
        "--fleet", metavar="SELECTOR", help="With these labels: site=paris,ring!=canary.", rich_help_panel=PANEL
    ),
]
StateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        metavar="STATE",
        help=f"In this state; may be repeated. Connection: {', '.join(ConnectionState)}. Serving: "
        f"{', '.join(SlotState)}. States of one kind are alternatives.",
        rich_help_panel=PANEL,
    ),
]
ServesOption = Annotated[
    str | None,
    typer.Option("--serves", metavar="MODEL[@VERSION]", help="That serve this now.", rich_help_panel=PANEL),
]
FailingOption = Annotated[
    str | None,
    typer.Option(
        "--failing", metavar="CODE|any", help="That fail or went back, with this code or any.", rich_help_panel=PANEL
    ),
]
BehindOption = Annotated[
    bool, typer.Option("--behind", help="That do not serve yet what they should.", rich_help_panel=PANEL)
]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--name", metavar="PART", help="With this in their name; edge* for its beginning.", rich_help_panel=PANEL
    ),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, help="At most so many.", rich_help_panel=PANEL)
]
SortOption = Annotated[
    str,
    typer.Option(
        "--sort",
        metavar="ORDER",
        help="name, last_seen (the longest silent first) or changed; with - before it the other way round.",
        rich_help_panel=PANEL,
    ),
]
EVERYTHING = 100_000_000
SHOWN = 5
"""Codes and versions that are named where nothing matches."""


@dataclass(frozen=True)
class DeviceSelection:
    """What was asked for."""

    query: DeviceQuery
    limit: int | None = None

    @property
    def is_filter(self) -> bool:
        """Not every device is meant."""
        return bool(self.query.to_json().keys() - {"sort", "brief"})


def selection(
    fleet: str | None = None,
    state: list[str] | None = None,
    serves: str | None = None,
    failing: str | None = None,
    *,
    behind: bool = False,
    name: str | None = None,
    limit: int | None = None,
    sort: str = DeviceSort.NAME.value,
) -> DeviceSelection:
    """The options as one value. Raises UsageFault."""
    states = [text.replace("-", "_") for text in state or ()]
    known = (*ConnectionState, *SlotState)
    if wrong := [text for text in states if text not in known]:
        raise UsageFault(f"There is no state {wrong[0]!r}", hint=f"There are: {', '.join(known)}")
    backwards = "-" if sort.startswith("-") else ""
    order = backwards + sort.removeprefix("-").replace("-", "_")
    if order not in set(DeviceSort):
        raise no_order(sort, [each.value for each in DeviceSort if not each.startswith("-")])
    query = DeviceQuery(
        state=states,
        serves=serves or "",
        failing=failing or "",
        behind=True if behind else None,
        selector=fleet or "",
        name=name or "",
        sort=DeviceSort(order),
    )
    return DeviceSelection(query, limit)


def selected(session: Session, chosen: DeviceSelection, *, brief: bool) -> Iterator[DeviceView]:
    """The devices, each as soon as its page is there.

    Args:
        session: Of the command.
        chosen: Which.
        brief: Without their documents. A program gets them all the same.
    """
    query = chosen.query.model_copy(update={"brief": brief and not session.out.as_json})
    return each_device(session.client, query, chosen.limit or EVERYTHING)


def summary_of(session: Session, chosen: DeviceSelection) -> FleetSummary | None:
    """The fleet in figures; None: the registry is older and has none.

    Raises:
        ClientError: it is older, and would pass over the filters: it would show devices that were not asked for.
    """
    try:
        return fleet_summary(session.client)
    except ProblemError as problem:
        if problem.status != 404:
            raise
    if chosen.is_filter or chosen.query.sort is not DeviceSort.NAME:
        raise ClientError("This registry is older and cannot choose or sort devices", hint="Upgrade the registry.")
    return None


CONNECTION_TEXT: dict[ConnectionState, str] = {
    ConnectionState.ONLINE: "online",
    ConnectionState.HTTP_ONLY: "online over HTTP",
    ConnectionState.LATE: "late",
    ConnectionState.SILENT: "silent",
    ConnectionState.OFFLINE: "offline",
    ConnectionState.NEVER_SEEN: "never seen",
}


def fleet_line(summary: FleetSummary) -> str:
    """`1,204 devices: 1,180 online, 24 silent; 3 failing, 40 behind`."""
    counts = [
        f"{summary.connection[state]:,} {text}"
        for state, text in CONNECTION_TEXT.items()
        if summary.connection.get(state)
    ]
    failing = sum(summary.failing.values())
    more = [f"{number:,} {what}" for number, what in ((failing, "failing"), (summary.behind, "behind")) if number]
    line = f"{count_text(summary.devices, 'device')}: {', '.join(counts)}" if counts else "No devices"
    return "; ".join([line, *([", ".join(more)] if more else [])])


def count_text(number: int, noun: str) -> str:
    """`1,204 devices`."""
    return how_many(number, noun).replace(str(number), f"{number:,}", 1)


def nothing_matches(session: Session, chosen: DeviceSelection, summary: FleetSummary | None = None) -> CliError:
    """The same as the error of a command that needs a device."""
    if _no_labels(session, chosen):
        return no_match(session, chosen.query.selector)
    hint = " ".join([] if summary is None else there_are(chosen.query, summary))
    return CliError("No device matches", code="not_found", hint=hint)


def _no_labels(session: Session, chosen: DeviceSelection) -> bool:
    """Is it the selector that no device matches, whatever else is asked for?"""
    alone = DeviceQuery(selector=chosen.query.selector, brief=True)
    return bool(alone.selector) and next(each_device(session.client, alone, 1), None) is None


def nothing_line(session: Session, chosen: DeviceSelection, summary: FleetSummary | None = None) -> str:
    """Why no device matches: the labels that there are, where none has those of the selector; else the codes with which
    devices fail and the versions that serve, where these were asked for."""
    if _no_labels(session, chosen):
        error = no_match(session, chosen.query.selector)
        return f"{error.what}. {error.hint}"
    return " ".join(["No device matches.", *([] if summary is None else there_are(chosen.query, summary))])


def there_are(query: DeviceQuery, summary: FleetSummary) -> list[str]:
    """What a filter by code or by version could have named."""
    said = []
    if query.failing:
        codes = [f"{code} ({count:,})" for code, count in summary.failing.items()]
        said.append(f"Devices fail with: {_first_of(codes)}." if codes else "No device fails.")
    if query.serves:
        serving: dict[str, int] = {}
        for each in summary.versions:
            if each.version is not None:
                name = f"{each.model}@{each.version}"
                serving[name] = serving.get(name, 0) + each.devices
        found = [f"{name} ({count:,})" for name, count in serving.items()]
        said.append(f"What serves most: {_first_of(found)}." if found else "Nothing serves.")
    return said


def _first_of(texts: list[str]) -> str:
    return ", ".join(texts[:SHOWN]) + (", ..." if len(texts) > SHOWN else "")


def end_line(count: int, chosen: DeviceSelection) -> str:
    """Below a list that is not of the whole fleet; empty: it is."""
    if chosen.limit is not None and count >= chosen.limit:
        return f"The first {count:,}; --limit {chosen.limit} ends the list here."
    return (
        f"{count_text(count, 'device')} match."
        if chosen.is_filter and count != 1
        else ("1 device matches." if chosen.is_filter else "")
    )
