"""Which registry a command talks to, and with which token: options, then environment, then this host's own registry."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from registry.client.errors import UsageFault
from registry.httpclient.proxies import is_loopback

DEFAULT_REGISTRY = "http://127.0.0.1:8470"
REGISTRY_VARIABLE = "MODELFLEET_REGISTRY"
TOKEN_VARIABLE = "MODELFLEET_TOKEN"  # noqa: S105 - a variable's name
DATA_DIR_VARIABLE = "MODELFLEET_REGISTRY_DATA_DIR"
MAX_TOKEN_BYTES = 4096
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class GlobalOptions:
    """What may stand before or after the command's name; None where it was not given."""

    registry: str | None = None
    token: str | None = None
    token_file: Path | None = None
    as_json: bool = False
    debug: bool = False

    def over(self, earlier: GlobalOptions) -> GlobalOptions:
        """These options, with those of `earlier` where these do not say; a token of either kind replaces both."""
        named = self.token is not None or self.token_file is not None
        return GlobalOptions(
            registry=self.registry if self.registry is not None else earlier.registry,
            token=self.token if named else earlier.token,
            token_file=self.token_file if named else earlier.token_file,
            as_json=self.as_json or earlier.as_json,
            debug=self.debug or earlier.debug,
        )


@dataclass(frozen=True)
class Address:
    """Where the registry is, and what opens it."""

    url: str
    token: str | None

    @property
    def is_loopback(self) -> bool:
        """Does the registry run on this host?"""
        return is_loopback(urlsplit(self.url).hostname or "")

    @property
    def sends_token_in_clear(self) -> bool:
        """A token over plain HTTP to another host can be read on the way."""
        return self.token is not None and self.url.startswith("http://") and not self.is_loopback


def find_address(options: GlobalOptions, environment: Mapping[str, str] = os.environ) -> Address:
    """Decide on registry and token.

    Raises:
        UsageFault: the URL is none, or a token file cannot be read.
    """
    url = (options.registry or environment.get(REGISTRY_VARIABLE) or DEFAULT_REGISTRY).rstrip("/")
    try:
        parts = urlsplit(url)
        readable = parts.port is None or parts.port > 0  # reading a port that is none raises too
    except ValueError:
        parts, readable = urlsplit(""), False
    if not readable or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise UsageFault(
            f"{url!r} is not the address of a registry", hint=f"Give one like {DEFAULT_REGISTRY} or https://host"
        )
    token = _token(options, environment, local=parts.hostname in _LOOPBACK)
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise UsageFault("The token has characters that no token has; is it the right file?")
    return Address(url, token)


def default_data_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Where `registry serve` keeps its data when nothing else is configured."""
    if environment.get(DATA_DIR_VARIABLE):
        return Path(environment[DATA_DIR_VARIABLE])
    home = environment.get("HOME") or Path.home()
    return Path(environment.get("XDG_DATA_HOME") or Path(home, ".local/share")) / "modelfleet" / "registry"


def _token(options: GlobalOptions, environment: Mapping[str, str], *, local: bool) -> str | None:
    if options.token is not None and options.token_file is not None:
        raise UsageFault("Give --token or --token-file, not both")
    if options.token is not None:
        return options.token
    if options.token_file is not None:
        try:
            return _read(options.token_file)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageFault(f"The token file {options.token_file} cannot be read: {error}") from error
    if environment.get(TOKEN_VARIABLE):
        return environment[TOKEN_VARIABLE]
    return _administrators_token(environment) if local else None


def _administrators_token(environment: Mapping[str, str]) -> str | None:
    """This host's own; it is never sent to another host."""
    try:
        return _read(default_data_dir(environment) / "admin.token")
    except (OSError, UnicodeDecodeError):
        return None  # another user's registry, or none: the registry will say whether it asks for a token


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAX_TOKEN_BYTES).decode().strip()
