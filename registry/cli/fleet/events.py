"""`registry events`: what happened in the fleet."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import ValidationError

from registry.cli.listing import Listing, newest_option, show_list
from registry.cli.output import time_text
from registry.cli.session import Session, command
from registry.cli.times import moment
from registry.client.errors import UsageFault
from registry.contracts.api.events import EventQuery, EventSource, FleetEvent, Severity
from registry.contracts.paths import events_path

SHOWN = 50
"""Without --limit."""


@command
def events(
    session: Session,
    device: Annotated[str | None, typer.Argument(metavar="DEVICE")] = None,
    *,
    source: Annotated[EventSource | None, typer.Option(help="Only from there.")] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Only about this model.")] = None,
    rollout: Annotated[str | None, typer.Option(metavar="ROLLOUT", help="Only of this rollout: id or name.")] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help="Only of this kind: deployment, worker, job, outbox, agent, ...")
    ] = None,
    code: Annotated[str | None, typer.Option(metavar="CODE", help="Only with this code; any: all that failed.")] = None,
    severity: Annotated[Severity | None, typer.Option(help="Only so severe or more: warning has errors, too.")] = None,
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="Only done by this token's holder.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Not before: 2026-11-28 01:40 (UTC), or so long ago: 90m, 24h, 7d."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before, likewise.")] = None,
    limit: Annotated[int | None, newest_option(SHOWN)] = None,
) -> None:
    """Show what happened, newest first, in the whole fleet or on one device: steps of deployments, workers that died,
    dropped results; who changed rollouts and aliases, from what to what; who yanked versions, changed labels and
    renewed credentials.

    ```
    registry events
    registry events edge-1
    registry events --severity error --since 24h
    registry events --by alice
    registry events --rollout july --json
    ```
    """
    given = {"device": device, "source": source, "model": model, "rollout": rollout, "kind": kind, "code": code}
    given |= {"severity": severity, "by": by}
    times = {name: moment(text, session.now()) for name, text in (("since", since), ("until", until)) if text}
    try:
        wanted = EventQuery.model_validate({**{name: value for name, value in given.items() if value}, **times})
    except ValidationError as error:
        raise UsageFault(
            f"Not a filter of events: {error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}"
        ) from error
    listing = Listing(
        of=FleetEvent,
        noun="event",
        columns=("AT", "DEVICE", "KIND", "MODEL", "BY", "MESSAGE"),
        row=lambda e: (
            time_text(e.at), e.device or "-", _kind(e), _versioned(e.model, e.version), e.by or "-", _told(e)
        ),
        empty=f"{device} has told of no such event." if device else "No such event.",
        optional=("BY", "KIND"),
        newest_first=True,
    )  # fmt: skip
    show_list(session, listing, events_path(), limit=limit, default=SHOWN, query=wanted.to_json())


def _kind(event: FleetEvent) -> str:
    return ": ".join(part for part in (event.kind if event.source == "device" else event.source, event.phase) if part)


def _told(event: FleetEvent) -> str:
    if event.source == "person":
        before = f"before: {event.before}" if event.before else ""
        return ": ".join(part for part in (event.kind.replace("_", " "), event.message, before) if part)
    change = f"{event.before or 'none'} -> {event.after or 'none'}" if event.before or event.after else ""
    if event.source in ("rollout", "alias"):
        change = f"{event.kind}: {change}"
    return ": ".join(part for part in (event.code, change, event.message, event.note) if part)


def _versioned(model: str | None, version: str | None) -> str:
    return f"{model}@{version}" if model and version else model or "-"
