"""`registry broker`: the broker's settings, access rules and certificates, made on the host that has the authorities.

These commands do not speak to the registry. They read and write one folder, which may lie on a host of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.authority.folder import DEVICES, SERVICES, AuthorityFolder, AuthorityFolderError
from registry.brokers.access import BrokerAccess, BrokerSettings, keep_access, read_access
from registry.cli.output import CliError, require_new_file
from registry.cli.serve import load_settings
from registry.cli.session import Session, command
from registry.client.errors import UsageFault
from registry.contracts.texts import how_many
from registry.contracts.topics import DEFAULT_PREFIX, NAME, Topics
from registry.private_files import write_whole

if TYPE_CHECKING:
    from registry.authority.certificates import KeyPair
    from registry.brokers.writing import BrokerFiles

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Make the broker's settings, access rules and certificates. Run these on the host that keeps the authorities.",
)
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The registry's settings (TOML): data folder, prefix."),
]
AuthorityDir = Annotated[
    Path | None,
    typer.Option(
        "--authority", metavar="DIR", help="The authorities' folder.  [default: authority, in the data folder]"
    ),
]
OutDir = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write to.")]


class BrokerKind(str, Enum):
    """Brokers that settings can be made for."""

    MOSQUITTO = "mosquitto"


@app.command("config")
@command
def config(
    session: Session,
    kind: Annotated[BrokerKind, typer.Argument(help="Which broker.")],
    *,
    out: OutDir,
    hosts: Annotated[
        list[str], typer.Option("--host", help="A name or address of the broker, for its certificate; may be repeated.")
    ],
    devices_port: Annotated[int, typer.Option(min=1, max=65535, help="The port for devices.")] = 8883,
    services_port: Annotated[
        int, typer.Option(min=1, max=65535, help="The port for registry and applications.")
    ] = 8884,
    pools: Annotated[bool, typer.Option(help="Let devices take part in pools.")] = True,
    home_assistant: Annotated[bool, typer.Option(help="Let devices announce sensors to Home Assistant.")] = False,
    reload: Annotated[
        str, typer.Option(metavar="COMMAND", help="Makes the broker read its files again; run after each change.")
    ] = "",
    config: ConfigFile = None,
    authority: AuthorityDir = None,
) -> None:
    """Write a broker's whole configuration: TLS, identities, access rules and limits.

    Devices get a port of their own, on which the broker takes user name and client id from their certificate. The
    options are kept: later commands make the files again with them. Certificates are renewed when two thirds of their
    life are over, so a daily `registry broker update` keeps the broker going.

    ```
    registry broker config mosquitto --host broker.example --out /etc/mosquitto/modelfleet \\
        --reload 'systemctl reload mosquitto'
    registry broker certificate edge-1 --out edge-1
    ```
    """
    prefix = load_settings("broker", config).mqtt.prefix
    Topics(prefix)
    settings = BrokerSettings(
        kind=kind.value,
        folder=str(out.resolve()),
        hosts=tuple(hosts),
        prefix=prefix,
        devices_port=devices_port,
        services_port=services_port,
        pools=pools,
        home_assistant=home_assistant,
        reload=reload,
    )
    if devices_port == services_port:
        raise UsageFault("Devices and services need ports of their own", hint="Give --devices-port or --services-port.")
    with opened(authority, config) as folder:
        access = read_access(folder).model_copy(update={"settings": settings})
        keep_access(folder, access)
        made = _make(session, folder, settings, access, first=True)
    session.out.note("\n".join(["", _text(made), "For the registry's settings:"]))
    session.out.answer(_document(made), "\n".join(_registry_lines(settings)))


@app.command("update")
@command
def update(session: Session, *, config: ConfigFile = None, authority: AuthorityDir = None) -> None:
    """Make the broker's files again, with certificates renewed that have less than a third of their life left.

    Changes nothing, and reloads nothing, when everything is as it should be: run it daily.

    ```
    registry broker update
    ```
    """
    with opened(authority, config) as folder:
        access = read_access(folder)
        if access.settings is None:
            raise CliError("No broker was set up here yet", code="not_found", hint="Run: registry broker config")
        made = _make(session, folder, access.settings, access)
    session.out.answer(_document(made), _text(made))


@app.command("certificate")
@command
def certificate(
    session: Session,
    device: Annotated[str, typer.Argument(metavar="DEVICE")],
    *,
    out: OutDir,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long it is valid.")] = 365,
    config: ConfigFile = None,
    authority: AuthorityDir = None,
) -> None:
    """Make a device's key and certificate for the broker, and print the lines for its agent.toml.

    Bring the three files to the device, beside its agent.toml. The agent takes replaced files without a restart: make
    a new pair before the old one ends.

    ```
    registry broker certificate edge-1 --out edge-1
    ```
    """
    from registry.authority.certificates import issue_client  # noqa: PLC0415 - needs cryptography

    check_name("device", device)
    with opened(authority, config) as folder:
        now = session.now()
        access = read_access(folder)
        for ending in ("key", "pem"):
            require_new_file(out / f"{device}.{ending}")
        pair = issue_client(folder.authority(DEVICES, now), device, now, timedelta(days=days))
        broker_ca = folder.authority(SERVICES, now).certificate
    files = write_identity(out, device, pair, broker_ca)
    settings = access.settings
    lines = ["[mqtt]"]
    if settings is not None:
        lines += [f'host = "{settings.hosts[0]}"', f"port = {settings.devices_port}"]
        if settings.prefix != DEFAULT_PREFIX:
            lines.append(f'prefix = "{settings.prefix}"')
    lines += ["tls = true", 'ca_file = "broker-ca.pem"', f'cert_file = "{device}.pem"', f'key_file = "{device}.key"']
    document = {
        "device": device,
        "files": files,
        "expires": pair.expires().isoformat(),
    }
    session.out.note(f"In {out}: {device}.key, {device}.pem, broker-ca.pem; valid until {pair.expires():%Y-%m-%d}.")
    session.out.answer(document, "\n".join(lines))


@app.command("deny")
@command
def deny(
    session: Session,
    device: Annotated[str, typer.Argument(metavar="DEVICE")],
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Let it use the broker again.")] = False,
    config: ConfigFile = None,
    authority: AuthorityDir = None,
) -> None:
    """Let a device neither send nor receive at the broker, although its certificate is still valid.

    It holds for an open connection as soon as the broker has read its rules again (--reload of `broker config`).
    Requests by HTTP end with the device's credential: `registry devices remove DEVICE`.

    ```
    registry broker deny edge-7
    registry broker deny edge-7 --undo
    ```
    """
    check_name("device", device)
    with opened(authority, config) as folder:
        access = read_access(folder)
        denied = set(access.denied) - {device} if undo else set(access.denied) | {device}
        access = access.model_copy(update={"denied": tuple(sorted(denied))})
        keep_access(folder, access)
        make_again(session, folder, access)
    text = f"{device} may use the broker." if undo else f"{device} may neither send nor receive."
    session.out.answer({"device": device, "denied": not undo}, text)


def check_name(what: str, name: str) -> None:
    """Raises UsageFault where it is no name of a device, model or application."""
    if re.fullmatch(NAME, name) is None:
        hint = "Lower-case letters, digits and . _ - are allowed, 64 at most; a letter or digit begins and ends it."
        raise UsageFault(f"{name!r} is no {what}'s name", hint=hint)


@contextmanager
def opened(authority: Path | None, config: Path | None) -> Iterator[AuthorityFolder]:
    """The folder of the authorities, which no other command changes meanwhile."""
    path = authority if authority is not None else load_settings("broker", config).data_dir / "authority"
    try:
        folder = AuthorityFolder(path)
        with folder.locked():
            yield folder
    except AuthorityFolderError as error:
        raise CliError(str(error), code="disk_error") from error


def write_identity(out: Path, name: str, pair: KeyPair, broker_ca: bytes) -> list[str]:
    """Key, certificate and the broker's authority, into a folder that is made; returns the paths. Raises CliError."""
    files = {out / f"{name}.key": (pair.key, 0o600), out / f"{name}.pem": (pair.certificate, 0o644)}
    files[out / "broker-ca.pem"] = broker_ca, 0o644
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, (content, mode) in files.items():
            write_whole(file, content, mode)
    except OSError as error:
        raise CliError(f"{error.filename or out}: {error.strerror}", code="disk_error") from error
    return [str(file) for file in files]


def make_again(session: Session, folder: AuthorityFolder, access: BrokerAccess) -> None:
    """After a change: the broker's files, where a broker was set up."""
    if access.settings is None:
        session.out.note("No broker was set up here yet: run `registry broker config`.")
    else:
        _make(session, folder, access.settings, access)


def _document(made: BrokerFiles) -> dict[str, Any]:
    return {
        "changed": [str(path) for path in made.changed],
        "broker_until": made.broker_until.isoformat(),
        "registry_until": made.registry_until.isoformat(),
    }


def _text(made: BrokerFiles) -> str:
    until = min(made.broker_until, made.registry_until)
    return f"{how_many(len(made.changed), 'file')} written; certificates are valid until {until:%Y-%m-%d}."


def _make(
    session: Session, folder: AuthorityFolder, settings: BrokerSettings, access: BrokerAccess, *, first: bool = False
) -> BrokerFiles:
    from registry.brokers.writing import reload_broker, write_broker  # noqa: PLC0415 - needs cryptography

    try:
        made = write_broker(folder, access, settings, session.now())
    except OSError as error:
        raise CliError(f"{error.filename}: {error.strerror}", code="disk_error") from error
    for path in made.changed:
        session.out.note(f"written: {path}")
    fault = reload_broker(settings.reload) if made.changed and settings.reload else ""
    if fault and first:
        session.out.warn(f"{settings.reload!r} failed: {fault}. Later commands need it: try it when the broker runs.")
    elif fault:
        raise CliError(f"The files are written, but {settings.reload!r} failed: {fault}", code="failed")
    if made.changed and not settings.reload:
        session.out.note("Make the broker read its files again: Mosquitto does at SIGHUP, ports only at a restart.")
    return made


def _registry_lines(settings: BrokerSettings) -> list[str]:
    here = Path(settings.folder) / "registry"
    return [
        "[mqtt]",
        f'host = "{settings.hosts[0]}"',
        f"port = {settings.services_port}",
        *([f'prefix = "{settings.prefix}"'] if settings.prefix != DEFAULT_PREFIX else []),
        "tls = true",
        f'ca_file = "{here / "broker-ca.pem"}"',
        f'cert_file = "{here / "registry.pem"}"',
        f'key_file = "{here / "registry.key"}"',
        'username = "registry"',
    ]
