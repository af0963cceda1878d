"""Events: what happened in the fleet, newest first; every filter stands in the address, and so does one event."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from registry.contracts.api.events import EventQuery, FleetEvent, Severity
from registry.contracts.texts import visible
from registry.errors import InvalidError
from registry.server.console.rendering import page
from registry.server.console.sections import NavEntry
from registry.server.console.visitors import Reading
from registry.server.event_pages import event_page
from registry.server.middleware.auth import ServicesDep
from registry.server.middleware.paging import PagingDep
from registry.services.fleet.events import FleetEvents

router = APIRouter()
SECTION = NavEntry("Events", "/events", "events", router)
MAX_DOWNLOAD = 10_000
"""Events of one file."""
MAX_LOOKS = 100
"""Pages that are read for one file, each of a bounded number of rows."""
STEP = 500
KINDS = ("deployment", "worker", "job", "outbox", "agent")
"""Of devices: what the field suggests."""
COLUMNS = tuple(FleetEvent.model_fields)
MAX_TEXT = 400
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def filters_of(request: Request) -> dict[str, str]:
    """The filters of an address or a form, as texts, by the fields of `EventQuery`; an empty one is none. Raises
    InvalidError."""
    given = {name: request.query_params.get(name, "").strip() for name in EventQuery.model_fields}
    if any(len(text) > MAX_TEXT for text in given.values()):
        raise InvalidError("A filter is too long.")
    return given


def query_of(filters: Mapping[str, str]) -> EventQuery:
    """Raises InvalidError."""
    given: dict[str, Any] = {name: text for name, text in filters.items() if text}
    for name in ("since", "until"):
        if name in given:
            given[name] = _time(given[name])
    try:
        return EventQuery.model_validate(given)
    except ValueError as error:
        raise InvalidError(f"The filters are not right: {visible(str(error))[:500]}") from error


def _time(text: str) -> datetime:
    """A time without a zone is in UTC, as all that the page shows."""
    try:
        found = datetime.fromisoformat(text.removesuffix("UTC").strip().replace("Z", "+00:00"))
    except ValueError as error:
        raise InvalidError(f"A time is written as 2026-11-28 01:40, in UTC; not {visible(text[:40])!r}.") from error
    return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)


@router.get("/events")
def events(request: Request, services: ServicesDep, paging: PagingDep, _who: Reading) -> Response:
    """The list."""
    filters, now = filters_of(request), services.clock()
    found, reached = event_page(services, paging, query_of(filters))
    chosen = {name: text for name, text in filters.items() if text}
    times = [("hour", timedelta(hours=1)), ("24 h", timedelta(days=1)), ("7 days", timedelta(days=7))]
    newest = paging.cursor is None and not filters["until"] and not filters["id"]
    return page(
        request,
        "events.html",
        live=newest,
        events=found.items,
        next=found.next,
        reached=reached,
        filters=filters,
        chosen=chosen,
        newest=newest,
        severities=[each.value for each in Severity],
        kinds=KINDS,
        times=[(name, (now - length).strftime("%Y-%m-%d %H:%M")) for name, length in times],
        most=MAX_DOWNLOAD,
        command=_command(filters),
    )


def _command(filters: Mapping[str, str]) -> list[str]:
    """Options of `registry events` for the same view."""
    words = [filters["device"]] if filters["device"] else []
    for name, text in filters.items():
        if text and name not in ("device", "id"):
            words += [f"--{name}", text]
    return words


@router.get("/events/download")
def download(
    request: Request, services: ServicesDep, _who: Reading, form: Annotated[Literal["csv", "json"], Query(alias="as")]
) -> Response:
    """The same as a file: CSV, or one JSON document. A file ends after MAX_DOWNLOAD events, and says so."""
    wanted = query_of(filters_of(request))
    found = _each(services.fleet.events, wanted)
    write: Callable[[Iterator[FleetEvent | None]], Iterator[str]] = _csv if form == "csv" else _json
    parts = write(found)
    first = next(parts)  # what the filters get wrong is an error page, and no file
    name = f"events-{services.clock():%Y%m%dT%H%M%SZ}.{form}"
    kind = "text/csv; charset=utf-8" if form == "csv" else "application/json"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(_chained(first, parts), media_type=kind, headers=headers)


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _each(events: FleetEvents, wanted: EventQuery) -> Iterator[FleetEvent | None]:
    """The events; None at the end where there may be more."""
    after, left = None, MAX_DOWNLOAD
    for _ in range(MAX_LOOKS):
        found = events.page(wanted, after, min(STEP, left))
        yield from found.items
        left, after = left - len(found.items), found.next
        if after is None:
            return
        if not left:
            break
    yield None


def _json(found: Iterator[FleetEvent | None]) -> Iterator[str]:
    """`{"items": [...], "complete": true}`."""
    between, complete = '{"items": [', True
    for event in found:
        if event is None:
            complete = False
        else:
            yield between + "\n" + event.model_dump_json()
            between = ","
    yield ("" if between == "," else between) + '\n], "complete": ' + json.dumps(complete) + "}\n"


def _csv(found: Iterator[FleetEvent | None]) -> Iterator[str]:
    """A line of names, then a line an event. A text that a spreadsheet would take for a formula gets a `'` before."""
    first = True
    for event in found:
        if first:
            yield _line(COLUMNS)
            first = False
        if event is None:
            yield _line(["", "", "", "", "not complete: more events may match; narrow the time"])
        else:
            said = event.model_dump(mode="json")
            yield _line([_cell(said[name]) for name in COLUMNS])
    if first:
        yield _line(COLUMNS)


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return "'" + text if text.startswith(_FORMULA) else text


def _line(cells: Any) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue()
