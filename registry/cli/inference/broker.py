"""How `registry ask` and `registry bench` reach the broker.

The broker is the option's, else MODELFLEET_BROKER's, else that of the registry's settings where they are at hand: its
file or its variables, on its own host.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from registry.cli.inference.inputs import read_file
from registry.cli.output import CliError, ExitCode
from registry.client.errors import UsageFault
from registry.contracts.topics import DEFAULT_PREFIX
from registry.installation import install_command

if TYPE_CHECKING:
    from registry.client.devices import Client, DeviceError

BROKER_VARIABLE = "MODELFLEET_BROKER"
PANEL = "The broker"
METADATA_S = 2.0
"""So long a device may take to say what is assigned to it."""
EXAMPLE = "mqtt://HOST, or mqtts://USER:PASSWORD@HOST with TLS"

PictureOption = Annotated[
    Path | None, typer.Option("--picture", metavar="FILE", help="A JPEG or PNG file for a model that takes pictures.")
]
NpzOption = Annotated[
    Path | None, typer.Option("--npz", metavar="FILE", help="Arrays by the names of the inputs, as numpy.savez writes.")
]
RequestOption = Annotated[
    str | None,
    typer.Option(
        "--request",
        metavar="FILE|-",
        help='JSON: {"x": [[1, 2]]} by the names of the inputs, or a request of the Open Inference Protocol. '
        "-: standard input.",
    ),
]
PoolOption = Annotated[
    bool,
    typer.Option(
        "--pool",
        help="DEVICE names a pool. A request does not carry that name: any device that serves the model for a pool, "
        "this or another, may answer.",
    ),
]
DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="The device; with --pool the pool.")]
ReferenceArgument = Annotated[
    str, typer.Argument(metavar="MODEL[@VERSION]", help="With VERSION: only this version may answer.")
]


@dataclass(frozen=True)
class BrokerOptions:
    """What the command line says."""

    broker: str | None = None
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    prefix: str | None = None


def _option(kind: Any, text: str, metavar: str | None = None) -> Any:
    """An optional one; its name is that of the parameter."""
    return Annotated[kind | None, typer.Option(help=text, metavar=metavar, rich_help_panel=PANEL)]


_OPTIONS: dict[str, Any] = {
    "broker": _option(
        str, f"{EXAMPLE}. Default: {BROKER_VARIABLE}, or the broker of this host's registry settings.", "URL"
    ),
    "username": _option(str, "For the broker."),
    "password_file": _option(Path, "A file with its password.", "FILE"),
    "ca_file": _option(Path, "Authorities of the broker's certificate, PEM. Default: the system's.", "FILE"),
    "cert_file": _option(Path, "A client certificate, PEM.", "FILE"),
    "key_file": _option(Path, "Its key, PEM.", "FILE"),
    "prefix": _option(str, f"First levels of the fleet's topics. Default: {DEFAULT_PREFIX}."),
}


def asks_devices(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a function whose last parameter is `options: BrokerOptions` these options in its place."""
    hints = get_type_hints(function, include_extras=True)
    own = [p.replace(annotation=hints[p.name]) for p in inspect.signature(function).parameters.values()][:-1]

    @wraps(function)
    def run(*args: Any, **values: Any) -> None:
        options = BrokerOptions(**{name: values.pop(name) for name in _OPTIONS})
        try:
            function(*args, options=options, **values)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("registry."):
                raise
            hint = f"Devices are asked with NumPy and paho-mqtt: {install_command('client')}"
            raise UsageFault(f"The package {error.name} is not installed", hint=hint) from error

    keyword = inspect.Parameter.KEYWORD_ONLY
    more = (inspect.Parameter(name, keyword, annotation=kind, default=None) for name, kind in _OPTIONS.items())
    parameters = [*own, *more]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def client_arguments(options: BrokerOptions, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Of `Client`. Raises UsageFault: no broker is known, or a file cannot be read."""
    found: dict[str, Any] = {}
    url = options.broker or environment.get(BROKER_VARIABLE)
    if url is None:
        found = _of_settings()
    else:
        found["url"] = url
    if options.username is not None:
        found["username"] = options.username
    if options.password_file is not None:
        try:
            found["password"] = read_file(options.password_file).decode().strip()
        except UnicodeDecodeError as error:
            raise UsageFault(f"{options.password_file} is no text in UTF-8") from error
    if options.ca_file is not None:
        found["ca_file"] = options.ca_file
    if (options.cert_file is None) != (options.key_file is None):
        raise UsageFault("--cert-file and --key-file come together")
    if options.cert_file is not None:
        found["identity"] = (options.cert_file, options.key_file)
    if options.prefix is not None:
        found["prefix"] = options.prefix
    return found


def _of_settings() -> dict[str, Any]:
    """The registry's own broker, where its settings are on this host."""
    from registry.config import load_config  # noqa: PLC0415 - 100 ms

    try:
        mqtt = load_config().mqtt
        return mqtt.client_arguments() if mqtt.host is not None else _no_broker()
    except OSError as error:
        raise UsageFault(f"The registry's settings cannot be read: {error}") from error


def _no_broker() -> dict[str, Any]:
    raise UsageFault(
        "No broker is known",
        hint=f"Give --broker or set {BROKER_VARIABLE}: {EXAMPLE}. On the registry's host its settings are used: "
        "MODELFLEET_REGISTRY_CONFIG names their file.",
    )


@contextmanager
def connected(options: BrokerOptions, **settings: Any) -> Iterator[Client]:
    """A client of the broker. What goes wrong with it or with a device ends the command as its code says."""
    from registry.certificates import CertificateError  # noqa: PLC0415 - as below
    from registry.client.devices import Client, DeviceError  # noqa: PLC0415 - needs NumPy and paho

    arguments = client_arguments(options)
    try:
        client = Client(arguments.pop("url"), **arguments, **settings)
    except DeviceError as error:
        raise as_cli_error(error) from error
    except (ValueError, CertificateError, OSError) as error:
        raise UsageFault(f"The broker cannot be asked so: {error}") from error
    with client:
        try:
            yield client
        except DeviceError as error:
            raise as_cli_error(error) from error


def as_cli_error(error: DeviceError) -> CliError:
    """With the exit code that fits what happened."""
    from registry.client.devices import errors  # noqa: PLC0415 - as above

    code = ExitCode.FAILURE
    for kind, status in (
        ((errors.UnknownDeviceError, errors.UnknownModelError), ExitCode.NOT_FOUND),
        ((errors.NotConnectedError, errors.DeviceOfflineError), ExitCode.UNREACHABLE),
        ((errors.DeadlineError,), ExitCode.DEADLINE),
    ):
        if isinstance(error, kind):
            code = status
    where = f"{error.device}: " if error.device and error.device not in error.message else ""
    hint = error.action
    if isinstance(error, errors.DeviceOfflineError):  # the table's advice is for programs
        hint = f"Ask when it is back; registry devices show {error.device} says since when it is away."
    return CliError(where + error.message, code=error.code, hint=hint, exit_code=code)


def require_models(client: Client, device: str, timeout: float) -> None:
    """Raises CliError where the device says that no model at all is assigned to it: the request would be tried again
    until the time is over. A device that does not say is asked all the same."""
    from registry.client.devices import DeviceError  # noqa: PLC0415 - as above

    try:
        found = client.server_metadata(device, timeout=min(timeout / 4, METADATA_S))
    except DeviceError:
        return
    if not found.models:
        raise CliError(
            f"Nothing is assigned to {device}",
            code="unknown_model",
            hint=f"registry deploy MODEL@VERSION --device {device}; where that was done just now, ask again",
            exit_code=ExitCode.NOT_FOUND,
        )
