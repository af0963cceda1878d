"""Which registry a program talks to, and with which token: as it says, as the environment says, or this host's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from registry.client.errors import UsageFault
from registry.client.local_service import LocalService, find_service
from registry.httpclient.proxies import is_loopback

DEFAULT_REGISTRY = "http://127.0.0.1:8470"
REGISTRY_VARIABLE = "MODELFLEET_REGISTRY"
TOKEN_VARIABLE = "MODELFLEET_TOKEN"  # noqa: S105 - a variable's name
DATA_DIR_VARIABLE = "MODELFLEET_REGISTRY_DATA_DIR"
ADMIN_TOKEN_FILE = "admin.token"  # noqa: S105 - a file name
"""In the registry's data folder, mode 0600: the token that its first start made."""
MAX_TOKEN_BYTES = 4096
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Address:
    """Where the registry is, and what opens it."""

    url: str
    token: str | None
    hint: str = ""
    """Why there is no token although this host's registry has one, and who may use it; else empty."""

    @property
    def is_loopback(self) -> bool:
        """Does the registry run on this host?"""
        return is_loopback(urlsplit(self.url).hostname or "")

    @property
    def sends_token_in_clear(self) -> bool:
        """A token over plain HTTP to another host can be read on the way."""
        return self.token is not None and self.url.startswith("http://") and not self.is_loopback


def find_address(
    registry: str | None = None,
    token: str | None = None,
    token_file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Address:
    """Decide on registry and token.

    Args:
        registry: The URL. None: MODELFLEET_REGISTRY, else the registry of this host: the one that runs as a service,
            unless this user has one of their own.
        token: None: what `token_file` holds, else MODELFLEET_TOKEN, else the administrator's token of this host's
            registry, which is sent to no other host.
        token_file: Read when there is no `token`.
        environment: The variables.

    Raises:
        UsageFault: the URL is none, or the token file cannot be read.
    """
    service = find_service(environment)
    here = service.url if service is not None and not _has_own(environment) else DEFAULT_REGISTRY
    url = (registry or environment.get(REGISTRY_VARIABLE) or here).rstrip("/")
    try:
        parts = urlsplit(url)
        readable = parts.port is None or parts.port > 0  # reading a port that is none raises too
    except ValueError:
        parts, readable = urlsplit(""), False
    if not readable or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise UsageFault(
            f"{url!r} is not the address of a registry", hint=f"Give one like {DEFAULT_REGISTRY} or https://host"
        )
    hint = ""
    if token is None:
        token = _token(token_file, environment)
    if token is None and parts.hostname in _LOOPBACK:
        token = _administrators_token(environment, service)
        hint = service.access_text() if token is None and service is not None else ""
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise UsageFault("The token has characters that no token has; is it the right file?")
    return Address(url, token, hint)


def _has_own(environment: Mapping[str, str]) -> bool:
    """Has this user run a registry by hand?"""
    try:
        return (default_data_dir(environment) / ADMIN_TOKEN_FILE).is_file()
    except OSError:
        return False


def default_data_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Where `registry serve` keeps its data when nothing else is configured."""
    if environment.get(DATA_DIR_VARIABLE):
        return Path(environment[DATA_DIR_VARIABLE])
    home = environment.get("HOME") or Path.home()
    return Path(environment.get("XDG_DATA_HOME") or Path(home, ".local/share")) / "modelfleet" / "registry"


def _token(file: Path | None, environment: Mapping[str, str]) -> str | None:
    if file is not None:
        try:
            return _read(file)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageFault(f"The token file {file} cannot be read: {error}") from error
    return environment.get(TOKEN_VARIABLE) or None


def _administrators_token(environment: Mapping[str, str], service: LocalService | None) -> str | None:
    """This host's own, of the user's registry or of the one that runs as a service; never sent to another host."""
    folders = (default_data_dir(environment), service.data_dir if service is not None else None)
    found = (_read_if_allowed(folder / ADMIN_TOKEN_FILE) for folder in folders if folder is not None)
    return next((token for token in found if token is not None), None)


def _read_if_allowed(path: Path) -> str | None:
    """None: another user's registry, or none; the registry will say whether it asks for a token."""
    try:
        return _read(path)
    except (OSError, UnicodeDecodeError):
        return None


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAX_TOKEN_BYTES).decode().strip()
