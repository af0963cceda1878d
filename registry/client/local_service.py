"""The registry that runs on this host as a systemd service: where its data are, at which address it listens, who may
read its administrator's token. Read from the unit and its settings, without systemd and without any privilege.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

UNIT = "modelfleet-registry.service"
UNIT_FOLDERS = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
"""In the order of systemd: the first that has the unit counts."""
FOLDERS_VARIABLE = "MODELFLEET_UNIT_FOLDERS"
"""Other folders, for images and tests; separated by colons."""
MAX_BYTES = 1 << 16
DEFAULT_PORT = 8470
_PREFIX = "MODELFLEET_REGISTRY_"


@dataclass(frozen=True)
class LocalService:
    """What its unit and its settings say, as far as this user may read them."""

    unit: Path
    data_dir: Path | None
    port: int = DEFAULT_PORT
    user: str = ""
    """As whom it runs."""

    @property
    def url(self) -> str:
        """On this host."""
        return f"http://127.0.0.1:{self.port}"

    def access_text(self) -> str:
        """Who may read the administrator's token, as sentences for somebody who may not."""
        if self.data_dir is None:
            return ""
        owner, group = _who(self.data_dir)
        owner = owner or self.user or "root"
        token = self.data_dir / "admin.token"
        if group:
            who = f"members of the group {group} (usermod -aG {group} USER, then log in again) and {owner}"
        else:
            who = f"{owner} and root (sudo -u {owner} registry ...)"
        return (
            f"The registry of this host runs as a service ({self.unit.name}). Its administrator's token is in {token}; "
            f"{who} may read it. For yourself, have an administrator make one: "
            "registry token create NAME --role viewer, and name its file with --token-file or MODELFLEET_TOKEN."
        )


def find_service(environment: Mapping[str, str] = os.environ) -> LocalService | None:
    """The service, if its unit is installed."""
    named = environment.get(FOLDERS_VARIABLE)
    for folder in named.split(":") if named else UNIT_FOLDERS:
        unit = Path(folder) / UNIT
        lines = _lines(unit)
        if lines is None:
            continue
        for more in sorted(_dropins(unit)):
            lines += _lines(more) or []
        return _read(unit, lines)
    return None


def _dropins(unit: Path) -> list[Path]:
    try:
        return list(Path(f"{unit}.d").glob("*.conf"))
    except OSError:
        return []


def _read(unit: Path, lines: Sequence[str]) -> LocalService:
    variables = variables_of(lines)
    settings: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition("=")
        if name == "EnvironmentFile":
            variables |= _assignments(_lines(Path(value.lstrip("-"))) or [])
        if name == "ExecStart" and " --config " in value:
            settings = _settings(Path(value.split(" --config ")[1].split()[0]))
    data_dir = variables.get(_PREFIX + "DATA_DIR") or settings.get("data_dir")
    port = str(variables.get(_PREFIX + "PORT") or settings.get("port") or DEFAULT_PORT)
    user = next((line.partition("=")[2] for line in lines if line.startswith("User=")), "")
    number = int(port) if port.isdecimal() and 0 < int(port) < 65536 else DEFAULT_PORT
    return LocalService(unit, Path(str(data_dir)) if data_dir else None, number, user)


def variables_of(lines: Sequence[str]) -> dict[str, str]:
    """What `Environment=` sets, later lines over earlier ones."""
    return _assignments([line.partition("=")[2].strip('"') for line in lines if line.startswith("Environment=")])


def _assignments(lines: Sequence[str]) -> dict[str, str]:
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, equals, value in pairs if equals}


def _settings(file: Path) -> dict[str, Any]:
    lines = _lines(file)
    try:
        return tomllib.loads("\n".join(lines)) if lines is not None else {}
    except tomllib.TOMLDecodeError:
        return {}


def _lines(file: Path) -> list[str] | None:
    """None: not there, or not for this user."""
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
    return [line.strip() for line in text.splitlines()]


def _who(folder: Path) -> tuple[str, str]:
    """Its owner, and the group whose members may enter it; empty: none may."""
    try:
        found = folder.stat()
    except OSError:
        return "", ""
    return _name(pwd.getpwuid, found.st_uid), _name(grp.getgrgid, found.st_gid) if found.st_mode & stat.S_IXGRP else ""


def _name(look_up: Any, number: int) -> str:
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)
