"""`registry jobs`: one-time work of devices: what was asked for, how far it is, and ending it."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.list_group import list_group
from registry.cli.listing import Asked, Listing, newest_option, show_list, sort_option
from registry.cli.output import age_text
from registry.cli.session import Session, command
from registry.contracts.api.devices import JobView
from registry.contracts.paths import job_path, jobs_path

app = list_group("Manage jobs: conversions and evaluations on devices.")
NOTE_CHARS = 72
SHOWN = 50
"""Jobs, without --limit."""
JobId = Annotated[str, typer.Argument(metavar="JOB")]


def _row(view: JobView) -> tuple[object, ...]:
    age = age_text(view.updated_at, Session.now())
    return view.id, view.device, _what(view), view.status.state, age, shortened(_note(view))


_JOBS = Listing(
    of=JobView,
    noun="job",
    columns=("JOB", "DEVICE", "WHAT", "STATE", "CHANGED", "NOTE"),
    row=_row,
    empty="No device was given a job.",
    optional=("CHANGED", "NOTE"),
    orders={
        "changed": lambda view: view.updated_at,
        "device": lambda view: view.device,
        "state": lambda view: view.status.state.value,
    },
    newest_first=True,
)


@app.command("list")
@command
def list_jobs(
    session: Session,
    *,
    device: Annotated[str | None, typer.Option("--device", "-d", metavar="DEVICE", help="Only of this one.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="Only about this one.")] = None,
    limit: Annotated[int | None, newest_option(SHOWN)] = None,
    sort: Annotated[str | None, sort_option(_JOBS.orders, "the newest first")] = None,
) -> None:
    """List jobs, newest first.

    ```
    registry jobs list
    registry jobs list --device edge-1 --sort changed --json
    ```
    """
    asked: dict[str, Asked] = {"device": device, "model": model}
    show_list(session, _JOBS, jobs_path(), limit=limit, default=SHOWN, sort=sort, query=asked)


@app.command("show")
@command
def show_job(session: Session, job: JobId) -> None:
    """Show one job: its progress or its result.

    ```
    registry jobs show convert-0a1b2c3d4e5f
    ```
    """
    view = session.client.get(job_path(job), JobView)
    if session.out.as_json:
        session.out.document(view)
        return
    session.out.field(f"{view.id}: ", f"{_what(view)} on {view.device}: {view.status.state}")
    if _note(view):
        session.out.field("  ", _note(view))
    for key, value in view.status.result.items():
        session.out.field(f"  {key}: ", str(value))


@app.command("cancel")
@command
def cancel_job(session: Session, job: JobId) -> None:
    """Cancel a job. The device stops it when it receives the message.

    ```
    registry jobs cancel convert-0a1b2c3d4e5f
    ```
    """
    view = session.client.change("DELETE", job_path(job), None, JobView, repeatable=True)
    session.out.answer(view, f"{view.id} is {view.status.state}.")


def _what(view: JobView) -> str:
    job = view.job
    to = f" to {job.to}" if job.to else ""
    return f"{job.kind} {job.model}@{job.version}{to}"


def shortened(text: str) -> str:
    """For a table, where a long reason would leave no room for the rest; `show` has all of it."""
    return text if len(text) <= NOTE_CHARS else text[: NOTE_CHARS - 3] + "..."


def _note(view: JobView) -> str:
    status = view.status
    done = f"{status.done:.0%} " if status.done is not None and not status.code and status.done < 1 else ""
    return f"{done}{f'{status.code}: ' if status.code else ''}{status.message}"
