"""`registry health | results | counts`: what the fleet says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from typing import Annotated

import typer

from registry.cli.fleet.devices import presence_text
from registry.cli.fleet.selection import (
    BehindOption,
    DeviceSelection,
    FailingOption,
    FleetOption,
    NameOption,
    ServesOption,
    SortOption,
    StateOption,
    fleet_line,
    selected,
    selection,
    summary_of,
)
from registry.cli.listing import Asked, LimitOption, Listing, fetch_list, newest_option, show_list, sort_option
from registry.cli.output import age_text, time_text
from registry.cli.session import Session, command
from registry.cli.streaming import stream
from registry.client.errors import UsageFault
from registry.contracts.api.devices import CountView, DeviceView, ResultView
from registry.contracts.api.fleet import DeviceSort
from registry.contracts.counters import lost
from registry.contracts.device.messages import Health, ModelHealth
from registry.contracts.paths import counts_path, device_health_path, results_path
from registry.contracts.texts import size_text

DeviceFilter = Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="Only of this device.")]
MAX_BODY_SHOWN = 160
RESULTS_SHOWN, REPORTS_SHOWN = 20, 10
"""Without --limit."""


@command
def health(
    session: Session,
    device: Annotated[str | None, typer.Argument(metavar="DEVICE")] = None,
    *,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="Rows at most: of one device its newest reports (10).")
    ] = None,
    fleet: FleetOption = None,
    state: StateOption = None,
    serves: ServesOption = None,
    failing: FailingOption = None,
    behind: BehindOption = False,
    part: NameOption = None,
    sort: SortOption = DeviceSort.NAME.value,
) -> None:
    """Show the newest health of every device, or the last reports of one.

    ```
    registry health
    registry health --fleet site=paris --sort last_seen --limit 20
    registry health edge-1 --limit 60 --json
    ```
    """
    chosen = selection(fleet, state, serves, failing, behind=behind, name=part, limit=limit, sort=sort)
    if device is None:
        _fleet_health(session, chosen)
        return
    if chosen.is_filter or chosen.query.sort is not DeviceSort.NAME:
        raise UsageFault("Give a device or say which ones, not both")
    listing = Listing(
        of=Health,
        noun="report",
        columns=("AT", *_HEALTH_COLUMNS),
        row=lambda _: (),  # a report has a row for each model
        empty=f"{device} has sent no health report yet.",
        optional=("CPU", "MEMORY", "p50", "ERRORS"),
        newest_first=True,
    )
    found = fetch_list(session, listing, device_health_path(device), limit=limit, default=REPORTS_SHOWN)
    reports = found.shown
    if session.out.as_json:
        session.out.document(reports)
        return
    today = session.now().astimezone().date()
    rows = (row for report in reports for row in _health_rows(_clock_text(report.at, today), report))
    if reports:
        session.out.say(f"{device}. {found.summary}")
    session.out.table(listing.columns, rows, listing.empty, optional=listing.optional)
    newest = reports[0].models if reports else {}
    if reports:
        began = reports[0].at - timedelta(seconds=reports[0].uptime_s)
        session.out.say(_meaning(f"the agent's start, {time_text(began)}", f"the {reports[0].window_s:.0f} s before"))
    for name, model in sorted(newest.items()):
        if model.batching:
            session.out.say(f"{name}: {model.batching}")


def _clock_text(at: datetime, today: date) -> str:
    """The time alone where the day is clear: more fits a line."""
    text = time_text(at)
    return text.partition(" ")[2] if at.astimezone().date() == today else text


def _meaning(since: str, window: str) -> str:
    """Under a table of health: what its figures are of."""
    return (
        f"\nREQUESTS, ERRORS: totals since {since}.\n"
        f"CPU, p50, p99: of {window} the report.\n"
        "-: nothing was measured in that time, or the host does not tell it."
    )


def _fleet_health(session: Session, chosen: DeviceSelection) -> None:
    summary, out = summary_of(session, chosen), session.out
    found = selected(session, chosen, brief=False)
    if out.as_json:
        told = ({"device": d.name, "presence": d.presence, "health": d.health} for d in found)
        stream(out, told, (), lambda _: (), empty="")
        return
    if summary is not None and summary.devices:
        out.say(fleet_line(summary))
    columns = ("DEVICE", "STATE", "REPORT", *_HEALTH_COLUMNS)
    optional = ("p50", "CPU", "MEMORY", "STATE", "REPORT")
    empty = "No device matches." if chosen.is_filter else "No devices."
    if stream(out, _fleet_rows(session, found), columns, lambda row: row, empty=empty, optional=optional):
        out.say(_meaning("the start of each agent", "the time from the report before to"))


def _fleet_rows(session: Session, devices: Iterable[DeviceView]) -> Iterator[tuple[object, ...]]:
    for device in devices:
        if device.health is None:
            yield (device.name, presence_text(device), "none yet", *["-"] * len(_HEALTH_COLUMNS))
            continue
        age = age_text(device.health.at, session.now())
        yield from ((device.name, presence_text(device), *row) for row in _health_rows(age, device.health))


_HEALTH_COLUMNS = (
    ">CPU",
    ">MEMORY",
    "MODEL",
    ">REQUESTS",
    ">ERRORS",
    ">p50",
    ">p99",
    "NOTES",
)


def _health_rows(at: str, report: Health) -> Iterator[tuple[object, ...]]:
    cpu = "-" if report.cpu_fraction is None else f"{report.cpu_fraction:.0%}"
    memory = "-" if report.rss_bytes is None else size_text(report.rss_bytes)
    host = (at, cpu, memory)
    waiting = "; ".join(
        f"{count} {what}"
        for count, what in (
            (report.outbox_queued, "results wait"),
            (report.results_unwritten, "results wait for a disk that takes none"),
            (report.outbox_dropped, "results dropped"),
            (report.replies_refused, "results refused by the broker"),
            (report.subscriptions_refused, "subscriptions refused by the broker"),
            *((count, name.replace("_", " ")) for name, count in sorted(report.counts.items()) if lost(name)),
        )
        if count
    )
    if report.broker_fault:
        waiting = "; ".join(text for text in (f"not on the broker: {report.broker_fault}", waiting) if text)
    if not report.models:
        yield (*host, *["-"] * 5, waiting)
    for name, model in sorted(report.models.items()):
        yield (*host, f"{name}@{model.version or 'none'}", *_model_cells(model), _notes(model, waiting))


def _model_cells(model: ModelHealth) -> tuple[object, ...]:
    latency = model.latency_us
    return model.requests, sum(model.errors.values()), _ms(latency.p50), _ms(latency.p99)


def _notes(model: ModelHealth, waiting: str) -> str:
    """What is not at rest, and how requests are joined."""
    queue = f"{model.queue_depth} of {model.queue_limit} queued" if model.queue_depth else ""
    restarts = f"{model.worker_restarts} worker restarts" if model.worker_restarts else ""
    return ", ".join(note for note in (queue, restarts, waiting, model.batching.partition(":")[0]) if note)


def _ms(microseconds: float) -> str:
    """A dash for 0: no request was answered in the window, since an answer takes longer."""
    if not microseconds:
        return "-"
    return f"{microseconds / 1000:.2f} ms" if microseconds >= 10 else f"{microseconds:.0f} us"


@command
def results(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    device: DeviceFilter = None,
    limit: Annotated[int | None, newest_option(RESULTS_SHOWN)] = None,
) -> None:
    """Show the recorded results of a model, newest first. Recording is switched on with `registry record MODEL on`.

    ```
    registry results lenet --device edge-1
    registry results lenet --limit 1000 --json
    ```
    """
    listing = Listing(
        of=ResultView,
        noun="result",
        columns=("AT", "DEVICE", "VERSION", "REQUEST", "CODE", "RESULT"),
        row=lambda r: (time_text(r.at), r.device, r.version or "-", r.request_id or "-", r.code or "ok", _shortened(r)),
        empty=f"No results of {model} are recorded here. Is recording on? registry record {model} on",
        optional=("REQUEST", "VERSION"),
        newest_first=True,
    )
    asked: dict[str, Asked] = {"model": model, "device": device}
    show_list(session, listing, results_path(), limit=limit, default=RESULTS_SHOWN, query=asked)


def _shortened(result: ResultView) -> str:
    text = result.body if isinstance(result.body, str) else json.dumps(result.body, ensure_ascii=False)
    return text if len(text) <= MAX_BODY_SHOWN else text[: MAX_BODY_SHOWN - 1] + "…"


def _count_row(count: CountView) -> tuple[object, ...]:
    by_code = ", ".join(f"{code} {number}" for code, number in sorted(count.errors.items()))
    total = sum(count.errors.values())
    first, last = time_text(count.first_at), time_text(count.last_at)
    return count.device, f"{count.model}@{count.version}", count.requests, total, first, last, by_code


_COUNTS = Listing(
    of=CountView,
    noun="line of counts",
    nouns="lines of counts",
    columns=("DEVICE", "MODEL", ">REQUESTS", ">ERRORS", "FIRST", "LAST", "BY CODE"),
    row=_count_row,
    empty="No requests were counted yet.",
    optional=("FIRST", "LAST"),
    orders={
        "device": lambda count: count.device,
        "requests": lambda count: count.requests,
        "errors": lambda count: sum(count.errors.values()),
        "last": lambda count: count.last_at,
    },
)


@command
def counts(
    session: Session,
    model: Annotated[str | None, typer.Argument(metavar="MODEL")] = None,
    device: DeviceFilter = None,
    *,
    limit: LimitOption = None,
    sort: Annotated[str | None, sort_option(_COUNTS.orders, "device")] = None,
) -> None:
    """Show how many requests each device answered with each version, and the errors by code.

    ```
    registry counts
    registry counts lenet --device edge-1
    registry counts lenet --sort errors --limit 20
    ```
    """
    asked: dict[str, Asked] = {"model": model, "device": device}
    found = show_list(session, _COUNTS, counts_path(), limit=limit, sort=sort, query=asked)
    if found and not session.out.as_json:
        session.out.say("\nREQUESTS, ERRORS: totals from FIRST to LAST, over every start of the agent.")
