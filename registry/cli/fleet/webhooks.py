"""`registry webhook`: where the registry tells other systems what rollouts do, signed, at least once."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import typer

from registry.cli.list_group import list_group
from registry.cli.listing import LimitOption, Listing, show_list, sort_option
from registry.cli.output import require_new_file, time_text, write_secret
from registry.cli.session import Session, command, confirm
from registry.contracts.paths import webhook_path, webhooks_path
from registry.contracts.rollout.views import WebhookCreate, WebhookCreated, WebhookView

app = list_group("Manage webhooks that report events of rollouts, with their delivery status.")
Webhook = Annotated[str, typer.Argument(metavar="NAME")]


_WEBHOOKS = Listing(
    of=WebhookView,
    noun="webhook",
    columns=("WEBHOOK", ">DELIVERED TO", ">LOST", "URL", "STATE"),
    row=lambda hook: (hook.name, hook.cursor, hook.lost, hook.url, _state(hook)),
    empty="There are no webhooks. Make one: registry webhook set ops https://example.com/hook",
    optional=("DELIVERED TO", "URL"),
    orders={
        "name": lambda hook: hook.name,
        "failures": lambda hook: hook.failures,
        "lost": lambda hook: hook.lost,
    },
)


@app.command("list")
@command
def list_webhooks(
    session: Session,
    *,
    limit: LimitOption = None,
    sort: Annotated[str | None, sort_option(_WEBHOOKS.orders, "name")] = None,
) -> None:
    """List the webhooks with their delivery status.

    ```
    registry webhook list --sort failures
    ```
    """
    show_list(session, _WEBHOOKS, webhooks_path(), limit=limit, sort=sort)


def _state(view: WebhookView) -> str:
    if view.disabled_at is not None:
        return f"given up after {view.failures} failures: {view.last_error}"
    if view.failures:
        return f"{view.failures} failures, next try {time_text(view.next_try)}: {view.last_error}"
    return "no failures"


@app.command("set")
@command
def set_webhook(
    session: Session,
    name: Webhook,
    url: Annotated[str, typer.Argument(metavar="URL")],
    *,
    kind: Annotated[list[str] | None, typer.Option("--kind", help="rollout, wave, device; default: the first two.")] = (
        None
    ),
    secret_out: Annotated[
        Path | None, typer.Option("--secret-out", metavar="FILE", help="Write the secret here (mode 600).")
    ] = None,
) -> None:
    """POST events to a URL. The secret that signs them is shown once; docs/rollouts.md says how to verify a signature.

    Setting an existing webhook changes it and restarts delivery if it was given up. Its secret stays the same.

    ```
    registry webhook set ops https://example.com/hook --secret-out hook.secret
    ```
    """
    require_new_file(secret_out)
    body = WebhookCreate(url=url, kinds=tuple(kind or ()))
    answer = session.client.send("PUT", webhook_path(name), body)
    if answer.status != HTTPStatus.CREATED:
        _tell_changed(session, answer.decode(WebhookView), secret_out)
        return
    made = answer.decode(WebhookCreated)
    if secret_out is not None:
        write_secret(secret_out, made.secret)
    if session.out.as_json:
        told = {"webhook": made.webhook.to_json(), "secret": made.secret}
        session.out.document(told if secret_out is None else {**told, "secret": None, "secret_file": str(secret_out)})
        return
    session.out.say(f"Events go to {made.webhook.url}.")
    session.out.say(f"The secret, shown only now: {made.secret}" if secret_out is None else f"Secret: {secret_out}")


def _tell_changed(session: Session, view: WebhookView, secret_out: Path | None) -> None:
    """It was there: no secret is made."""
    if session.out.as_json:
        session.out.document({"webhook": view.to_json(), "secret": None})
        return
    session.out.say(f"Events go to {view.url}. The secret stays what it was.")
    if secret_out is not None:
        session.out.warn(f"{secret_out} was not written: for a new secret remove the webhook and set it again")


@app.command("remove")
@command
def remove(
    session: Session, name: Webhook, *, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Remove a webhook."""
    confirm(session, f"Remove webhook {name}?", yes=yes)
    session.client.send("DELETE", webhook_path(name))
    session.out.answer({"removed": name}, f"Removed webhook {name}.")
