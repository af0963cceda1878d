"""`registry token`: who may do what in the registry. Only administrators."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from registry.cli.list_group import list_group
from registry.cli.listing import LimitOption, Listing, show_list, sort_option
from registry.cli.output import require_new_file, time_text, write_secret
from registry.cli.session import Session, command, confirm
from registry.contracts.api.answers import Scope, TokenCreate, TokenCreated, TokenView
from registry.contracts.paths import token_path, tokens_path

app = list_group(
    "Manage tokens, which allow to read, publish, deploy or administer. The registry stores only their hashes."
)


GivenScope = Literal["read", "publish", "deploy", "admin"]
"""What a person's or a pipeline's token may do; devices get theirs with `registry devices add`."""


@app.command("create")
@command
def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who holds it: a person or a pipeline.")],
    scope: Annotated[GivenScope, typer.Option("--scope", help="The token's permission.")],
    token_out: Annotated[
        Path | None, typer.Option("--token-out", metavar="FILE", help="Write the token to this file (mode 600).")
    ] = None,
) -> None:
    """Create a token. It is shown only once.

    ```
    registry token create ci --scope publish --token-out ci.token
    ```
    """
    require_new_file(token_out)
    body = TokenCreate(name=name, scope=Scope(scope))  # type: ignore[arg-type]
    created = session.client.change("POST", tokens_path(), body, TokenCreated)
    if token_out is not None:
        write_secret(token_out, created.token)
    told = {"name": created.name, "scope": created.scope}
    if session.out.as_json:
        session.out.document(told | ({"token": created.token} if token_out is None else {"token_file": str(token_out)}))
    elif token_out is None:
        session.out.note(f"Token {name} may {scope}. It is shown only now:")
        session.out.say(created.token)
    else:
        session.out.say(f"Token {name} may {scope}. It is in {token_out}.")


_TOKENS = Listing(
    of=TokenView,
    noun="token",
    columns=("NAME", "SCOPE", "CREATED", "LAST USED"),
    row=lambda token: (token.name, token.scope, time_text(token.created_at), time_text(token.last_used)),
    empty="No tokens.",
    optional=("CREATED",),
    orders={
        "name": lambda token: token.name,
        "scope": lambda token: token.scope.value,
        "created": lambda token: token.created_at,
        "last_used": lambda token: token.last_used,
    },
)


@app.command("list")
@command
def list_tokens(
    session: Session,
    *,
    limit: LimitOption = None,
    sort: Annotated[str | None, sort_option(_TOKENS.orders, "name")] = None,
) -> None:
    """List the tokens, without their secrets.

    ```
    registry token list
    registry token list --sort=-last_used
    ```
    """
    show_list(session, _TOKENS, tokens_path(), limit=limit, sort=sort)


@app.command("revoke")
@command
def revoke(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Revoke a token. It stops working at once.

    ```
    registry token revoke ci
    ```
    """
    confirm(session, f"Revoke token {name}?", yes=yes)
    session.client.send("DELETE", token_path(name))
    session.out.answer({"revoked": name}, f"Revoked token {name}.")
