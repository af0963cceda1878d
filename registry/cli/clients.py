"""`registry clients`: applications that may ask devices through the broker, each with rights of its own."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from registry.authority.folder import SERVICES
from registry.brokers.access import ANY, Application, keep_access, read_access
from registry.brokers.grants import REGISTRY
from registry.cli.broker import AuthorityDir, ConfigFile, OutDir, check_name, make_again, opened, write_identity
from registry.cli.output import CliError, require_new_file
from registry.cli.session import Session, command
from registry.client.errors import UsageFault
from registry.contracts.topics import REPLIES

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Manage applications that ask devices. Run these on the host that keeps the authorities.",
)


@app.command("add")
@command
def add(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="APPLICATION")],
    *,
    out: OutDir,
    models: Annotated[list[str], typer.Option("--model", help="A model that it may ask; `*`: every one. Repeatable.")],
    devices: Annotated[
        list[str] | None,
        typer.Option("--device", help="A device that it may ask by name; `*`: every one. May be repeated."),
    ] = None,
    pools: Annotated[bool, typer.Option("--pools", help="It may ask pools that serve these models.")] = False,
    results: Annotated[bool, typer.Option("--results", help="It may read results that devices record.")] = False,
    days: Annotated[int, typer.Option(min=1, max=397, help="How long its certificate is valid.")] = 365,
    config: ConfigFile = None,
    authority: AuthorityDir = None,
) -> None:
    """Give an application its rights, a key and a certificate for the broker.

    What is not granted it cannot do: it asks these models on these devices, reads whether they are there, and gets
    its answers on topics of its own. It may connect as often as it likes. The same command with another --out
    gives another key, with the rights that are given now; the older certificate stays valid until it ends.

    ```
    registry clients add camera-app --model lenet --device edge-1 --device edge-2 --out camera-app
    registry clients add dashboard --model '*' --device '*' --pools --out dashboard
    ```
    """
    from registry.authority.certificates import issue_client  # noqa: PLC0415 - needs cryptography

    check_name("application", name)
    if name == REGISTRY:
        raise UsageFault(f"{REGISTRY!r} is the registry's own name", hint="Give the application another name.")
    for what, names in (("model", models), ("device", devices or [])):
        for each in names:
            if each != ANY:
                check_name(what, each)
    if not devices and not pools:
        raise UsageFault("Whom may it ask?", hint="Give --device NAME, --device '*', or --pools.")
    for ending in ("key", "pem"):
        require_new_file(out / f"{name}.{ending}")
    with opened(authority, config) as folder:
        now = session.now()
        access = read_access(folder)
        application = Application(models=tuple(models), devices=tuple(devices or ()), pools=pools, results=results)
        access = access.model_copy(update={"applications": {**access.applications, name: application}})
        keep_access(folder, access)
        services = folder.authority(SERVICES, now)
        pair = issue_client(services, name, now, timedelta(days=days))
        files = write_identity(out, name, pair, services.certificate)
        make_again(session, folder, access)
    settings = access.settings
    host, port = (settings.hosts[0], settings.services_port) if settings is not None else ("BROKER", 8884)
    session.out.note(f"In {out}: {name}.key, {name}.pem, broker-ca.pem; valid until {pair.expires():%Y-%m-%d}.")
    session.out.note("For its program (registry.client.devices):")
    document = {
        "application": name,
        "rights": application.model_dump(mode="json"),
        "files": files,
        "expires": pair.expires().isoformat(),
        "url": f"mqtts://{host}:{port}",
        "reply_prefix": f"{REPLIES}/{name}",
    }
    lines = [
        "Client(",
        f'    "mqtts://{host}:{port}",',
        '    ca_file="broker-ca.pem",',
        f'    identity=("{name}.pem", "{name}.key"),',
        f'    reply_prefix="{REPLIES}/{name}",',
        ")",
    ]
    session.out.answer(document, "\n".join(lines))


@app.command("list")
@command
def list_clients(session: Session, *, config: ConfigFile = None, authority: AuthorityDir = None) -> None:
    """List applications and what each may ask.

    ```
    registry clients list
    ```
    """
    with opened(authority, config) as folder:
        applications = read_access(folder).applications
    rows = [
        (name, " ".join(each.models), " ".join(each.devices) or "-", _yes(each.pools), _yes(each.results))
        for name, each in sorted(applications.items())
    ]
    headings = ("APPLICATION", "MODELS", "DEVICES", "POOLS", "RESULTS")
    document = {"applications": {name: each.model_dump(mode="json") for name, each in applications.items()}}
    if session.out.as_json:
        session.out.document(document)
    else:
        session.out.table(headings, rows, "No applications. Add one: registry clients add")


@app.command("remove")
@command
def remove(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="APPLICATION")],
    *,
    config: ConfigFile = None,
    authority: AuthorityDir = None,
) -> None:
    """Take an application's rights away. Its certificate still connects until it ends, and can do nothing.

    ```
    registry clients remove camera-app
    ```
    """
    with opened(authority, config) as folder:
        access = read_access(folder)
        if name not in access.applications:
            raise CliError(f"No application {name}", code="not_found", hint="registry clients list")
        rest = {key: each for key, each in access.applications.items() if key != name}
        access = access.model_copy(update={"applications": rest})
        keep_access(folder, access)
        make_again(session, folder, access)
    session.out.answer({"application": name, "removed": True}, f"{name} may ask nobody.")


def _yes(value: bool) -> str:
    return "yes" if value else "-"
