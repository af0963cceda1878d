"""`registry uploads`: upload sessions that are open, and their end."""

from __future__ import annotations

from typing import Annotated

import typer

from registry.cli.list_group import list_group
from registry.cli.listing import LimitOption, Listing, show_list, sort_option
from registry.cli.output import age_text
from registry.cli.session import Session, command, confirm
from registry.contracts.api.uploads import OpenUpload
from registry.contracts.paths import upload_path, uploads_path
from registry.contracts.texts import size_text

app = list_group("Uploads that are not complete: list them, cancel them.")


def _listing(session: Session) -> Listing[OpenUpload]:
    return Listing(
        of=OpenUpload,
        noun="upload",
        columns=("UPLOAD", "BY", ">SIZE", ">RECEIVED", "BEGAN", "LAST BYTE", "NOW"),
        row=lambda upload: (
            upload.id,
            upload.caller,
            size_text(upload.size),
            size_text(upload.offset),
            age_text(upload.began_at, session.now()),
            age_text(upload.touched_at, session.now()),
            "sending" if upload.sending else "waits",
        ),
        empty="No upload is open.",
        optional=("BEGAN", "NOW"),
        orders=_ORDERS,
    )


_ORDERS = {
    "id": lambda upload: upload.id,
    "by": lambda upload: upload.caller,
    "size": lambda upload: upload.size,
    "began": lambda upload: upload.began_at,
}


@app.command("list")
@command
def list_uploads(
    session: Session,
    *,
    limit: LimitOption = None,
    sort: Annotated[str | None, sort_option(_ORDERS, "id")] = None,
) -> None:
    """List the uploads that are open: an administrator sees all, others their own.

    The room for the rest of each is held on the registry's disk until it is complete, cancelled, or has expired.

    ```
    registry uploads list --sort size
    ```
    """
    show_list(session, _listing(session), uploads_path(), limit=limit, sort=sort)


@app.command("cancel")
@command
def cancel(
    session: Session,
    upload: Annotated[str, typer.Argument(metavar="UPLOAD")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Cancel an upload: its bytes are dropped, and its room is free again. An administrator may cancel anybody's.

    Whoever sends it may begin again; revoke the token of somebody who should not (`registry token revoke`).

    ```
    registry uploads cancel 0123456789abcdef0123456789abcdef
    ```
    """
    confirm(session, f"Cancel upload {upload}?", yes=yes)
    session.client.send("DELETE", upload_path(upload))
    session.out.answer({"cancelled": upload}, f"Cancelled upload {upload}.")
