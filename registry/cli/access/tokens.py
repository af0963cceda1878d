"""`registry token`: who may do what in the registry. Only administrators."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from registry.cli.list_group import list_group
from registry.cli.listing import LimitOption, Listing, show_list, sort_option
from registry.cli.output import require_new_file, time_text, write_secret
from registry.cli.session import Session, command, confirm
from registry.cli.times import span_of
from registry.client.errors import UsageFault
from registry.contracts.api.access import LIMITED_BY_DEVICES, LIMITED_BY_MODELS, Role, RoleGrant
from registry.contracts.api.answers import Scope, TokenCreate, TokenCreated, TokenView
from registry.contracts.paths import token_path, tokens_path
from registry.core.access import named

app = list_group(
    "Manage tokens: who may do what, on which models and devices, until when. The registry stores only their hashes."
)
GivenScope = Literal["read", "publish", "deploy", "admin"]
"""What a token could be given before there were roles."""
LIMITS_PANEL = "Limits"
RolesOption = Annotated[
    list[Role] | None, typer.Option("--role", help="What it may do besides looking; several add up.")
]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--models", metavar="PATTERN", help="Only these models: a name, or vision-*.", rich_help_panel=LIMITS_PANEL
    ),
]
DevicesOption = Annotated[
    str,
    typer.Option("--devices", metavar="SELECTOR", help="Only these devices: site=paris.", rich_help_panel=LIMITS_PANEL),
]


def grants_of(roles: list[Role] | None, models: list[str] | None, devices: str) -> tuple[RoleGrant, ...]:
    """Each role with the limits that it can have. Raises UsageFault: a limit that none of them can have."""
    given = list(dict.fromkeys(roles or ()))
    for limit, can, name in ((models, LIMITED_BY_MODELS, "--models"), (devices, LIMITED_BY_DEVICES, "--devices")):
        if limit and not can & set(given):
            raise UsageFault(f"{name} limits {' and '.join(sorted(can))}, and none of these is given")
    return tuple(
        RoleGrant(
            role=role,
            models=tuple(models or ()) if role in LIMITED_BY_MODELS else (),
            devices=devices if role in LIMITED_BY_DEVICES else "",
        )
        for role in given
    )


@app.command("create")
@command
def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who holds it: a person or a pipeline.")],
    *,
    role: RolesOption = None,
    models: ModelsOption = None,
    devices: DevicesOption = "",
    expires: Annotated[
        str, typer.Option("--expires", metavar="TIME", help="It works so long: 90d, 12h. Default: until it is revoked.")
    ] = "",
    person: Annotated[
        str | None,
        typer.Option("--person", metavar="NAME", help="Whose it is. Default: a program's, which counts as nobody."),
    ] = None,
    scope: Annotated[
        GivenScope | None, typer.Option("--scope", help="As before there were roles; deploy also approves.")
    ] = None,
    token_out: Annotated[
        Path | None, typer.Option("--token-out", metavar="FILE", help="Write the token to this file (mode 600).")
    ] = None,
) -> None:
    """Create a token. It is shown only once.

    ```
    registry token create ci --role publisher --models 'vision-*' --expires 90d --token-out ci.token
    registry token create paris --role deployer --role approver --devices site=paris
    registry token create prometheus --role viewer
    ```
    """
    require_new_file(token_out)
    if (scope is None) == (not role):
        raise UsageFault("What may the token do?", hint="Give --role: " + ", ".join(Role))
    ends = session.now() + span_of(expires) if expires else None
    body = TokenCreate(
        name=name,
        scope=Scope(scope) if scope is not None else None,  # type: ignore[arg-type]
        grants=grants_of(role, models, devices),
        expires_at=ends,
        person=person,
    )
    created = session.client.change("POST", tokens_path(), body, TokenCreated)
    if token_out is not None:
        write_secret(token_out, created.token)
    may = f"{named(created.grants) or created.scope}" + (f", until {time_text(ends)}" if ends is not None else "")
    told = {key: value for key, value in created.to_json().items() if key != "token"}
    if session.out.as_json:
        session.out.document(told | ({"token": created.token} if token_out is None else {"token_file": str(token_out)}))
    elif token_out is None:
        session.out.note(f"Token {name}: {may}. It is shown only now:")
        session.out.say(created.token)
    else:
        session.out.say(f"Token {name}: {may}. It is in {token_out}.")


_TOKENS = Listing(
    of=TokenView,
    noun="token",
    columns=("NAME", "PERSON", "ROLES", "CREATED", "LAST USED", "WORKS UNTIL"),
    row=lambda token: (
        token.name,
        token.person or "-",
        named(token.grants) if token.grants else token.scope,
        time_text(token.created_at),
        time_text(token.last_used),
        time_text(token.expires_at) if token.expires_at is not None else "revoked",
    ),
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
