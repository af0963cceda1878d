"""The folder of a fleet's authorities, and of what else is decided with them.

It belongs on the one host whose administrator gives out certificates; neither the registry's processes nor the broker
need the keys in it. Files are written beside, synced and renamed; a lock lets one command at a time change the folder.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.authority.certificates import KeyPair

DEVICES, SERVICES = "devices", "services"
"""The two authorities. A certificate of one is worth nothing on the broker's listener for the other, so an application
that has a device's name is not that device."""


class AuthorityFolderError(Exception):
    """The folder cannot be used; the text names the file and what to do."""


class AuthorityFolder:
    """Opened for one command.

    Args:
        path: Made with mode 0700 where it is missing.

    Raises:
        AuthorityFolderError: it, or a file in it, cannot be read or written, or is not what this program wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other command changes the folder meanwhile; waits for one that does."""
        with naming(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def authority(self, which: str, now: datetime) -> KeyPair:
        """`DEVICES` or `SERVICES`; made where it is missing."""
        from registry.authority.certificates import KeyPair, new_authority  # noqa: PLC0415 - needs cryptography

        file = self.path / f"{which}.pem"
        with naming(file):
            if not file.exists():
                made = new_authority(f"Modelfleet {which}", now)
                write_file(file, made.key + made.certificate, 0o600)
            content = file.read_bytes()
        begin = content.find(b"-----BEGIN CERTIFICATE-----")
        if begin < 0 or b"PRIVATE KEY-----" not in content[:begin]:
            raise AuthorityFolderError(f"{file} does not hold a key and a certificate; put it back from a copy.")
        return KeyPair(content[begin:], content[:begin])


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and on disk when this returns. Raises OSError."""
    beside = path.with_name(f".{path.name}.new")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What the system refuses, as an AuthorityFolderError that names the file."""
    try:
        yield
    except OSError as error:
        raise AuthorityFolderError(f"{error.filename or path}: {error.strerror}") from error
