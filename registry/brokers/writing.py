"""Writes a broker's folder: certificates, settings and access rules, each file whole or not at all.

Certificates that are good for longer than a third of their life are kept, so that the command may run every day.
"""

from __future__ import annotations

import grp
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from registry.authority.certificates import KeyPair, issue_client, issue_server, names_of
from registry.authority.folder import DEVICES, SERVICES, AuthorityFolder, AuthorityFolderError
from registry.brokers.access import BrokerAccess, BrokerSettings
from registry.brokers.grants import REGISTRY
from registry.brokers.mosquitto import (
    DEVICES_AUTHORITY,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    SERVICES_AUTHORITY,
    mosquitto_files,
)
from registry.contracts.topics import Topics
from registry.private_files import write_whole

SERVICE_LIFE = timedelta(days=397)
"""Of certificates of the broker, the registry and applications: the longest that browsers take of a server."""
RELOAD_S = 60
GROUP = "mosquitto"
"""Of Debian's service. Root gives it the files to read: after a reload the broker reads them as its own user."""


@dataclass(frozen=True)
class BrokerFiles:
    """What was written."""

    changed: tuple[Path, ...]
    """Files that are other than before."""
    broker_until: datetime
    """End of the broker's certificate."""
    registry_until: datetime
    """End of the registry's certificate."""


def write_broker(folder: AuthorityFolder, access: BrokerAccess, settings: BrokerSettings, now: datetime) -> BrokerFiles:
    """All files of the broker, and the registry's certificate in a folder `registry` beside them.

    The caller holds the folder's lock.

    Raises:
        AuthorityFolderError: the authorities cannot be used.
        OSError: a file cannot be written; those before it are.
    """
    devices, services = folder.authority(DEVICES, now), folder.authority(SERVICES, now)
    target = Path(settings.folder)
    for each in (target, target / REGISTRY):
        each.mkdir(mode=0o750, parents=True, exist_ok=True)
    _to_group(target)
    broker = _kept(target / SERVER_CERTIFICATE, target / SERVER_KEY, services, settings.hosts, now) or issue_server(
        services, settings.hosts, now, SERVICE_LIFE
    )
    here = target / REGISTRY
    certificate, key = here / f"{REGISTRY}.pem", here / f"{REGISTRY}.key"
    registry = _kept(certificate, key, services, (REGISTRY,), now) or issue_client(
        services, REGISTRY, now, SERVICE_LIFE
    )
    wanted: list[tuple[Path, bytes, int]] = [
        (target / DEVICES_AUTHORITY, devices.certificate, 0o644),
        (target / SERVICES_AUTHORITY, services.certificate, 0o644),
        (target / SERVER_KEY, broker.key, 0o640),
        (target / SERVER_CERTIFICATE, broker.certificate, 0o644),
        *((target / name, text.encode(), 0o640) for name, text in _files(access, settings).items()),
        (here / "broker-ca.pem", services.certificate, 0o644),
        (key, registry.key, 0o600),
        (certificate, registry.certificate, 0o644),
    ]
    changed = tuple(path for path, content, mode in wanted if _written(path, content, mode))
    for path, _, mode in wanted:
        if mode == 0o640:
            _to_group(path)
    return BrokerFiles(changed, broker.expires(), registry.expires())


def reload_broker(command: str) -> str:
    """Empty when the command ended well, else what it said."""
    try:
        done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=RELOAD_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip() or f"it ended with {done.returncode}"


def _files(access: BrokerAccess, settings: BrokerSettings) -> dict[str, str]:
    return mosquitto_files(Topics(settings.prefix), access, settings)


def _kept(certificate: Path, key: Path, authority: KeyPair, hosts: Sequence[str], now: datetime) -> KeyPair | None:
    """The pair that lies there, where it is of this authority, has these names, and a third of its life is left."""
    try:
        pair = KeyPair(certificate.read_bytes(), key.read_bytes())
    except FileNotFoundError:
        return None
    good = names_of(pair, authority, now, SERVICE_LIFE / 3)
    return pair if good is not None and good == tuple(hosts) else None


def _written(path: Path, content: bytes, mode: int) -> bool:
    try:
        if path.read_bytes() == content:
            return False
    except FileNotFoundError:
        pass
    if path.is_dir():
        raise AuthorityFolderError(f"{path} is a folder; move it away.")
    write_whole(path, content, mode)
    return True


def _to_group(path: Path) -> None:
    if os.geteuid() != 0:
        return
    try:
        group = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return
    os.chown(path, -1, group)
