"""The folder of a fleet's authorities, and of what else is decided with them.

It belongs on the one host whose administrator gives out certificates; neither the registry's processes nor the broker
need the keys in it. Files are written beside, synced and renamed; a lock lets one command at a time change the folder.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from registry.private_files import make_private, write_whole

if TYPE_CHECKING:
    from registry.authority.certificates import KeyPair

DEVICES, SERVICES = "devices", "services"
"""The two authorities. A certificate of one is worth nothing on the broker's listener for the other, so an application
that has a device's name is not that device."""
LOCK_S = 90.0
"""For another command, which may make the broker read its files again."""


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
        """No other command changes the folder meanwhile; waits up to LOCK_S for one that does."""
        with naming(self.path):
            make_private(self.path)
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock(handle)
            yield
        finally:
            os.close(handle)

    def _lock(self, handle: int) -> None:
        until = time.monotonic() + LOCK_S
        while True:
            with suppress(BlockingIOError):
                return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.monotonic() > until:
                text = f"Another command has held {self.path} for {LOCK_S:g} s; see what it waits for, then try again."
                raise AuthorityFolderError(text)
            time.sleep(0.05)

    def authority(self, which: str, now: datetime) -> KeyPair:
        """`DEVICES` or `SERVICES`; made where it is missing."""
        from registry.authority.certificates import KeyPair, new_authority  # noqa: PLC0415 - needs cryptography

        file = self.path / f"{which}.pem"
        with naming(file):
            if not file.exists():
                made = new_authority(f"Modelfleet {which}", now)
                write_whole(file, made.key + made.certificate)
            content = file.read_bytes()
        begin = content.find(b"-----BEGIN CERTIFICATE-----")
        if begin < 0 or b"PRIVATE KEY-----" not in content[:begin]:
            raise AuthorityFolderError(f"{file} does not hold a key and a certificate; put it back from a copy.")
        return KeyPair(content[begin:], content[:begin])


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What the system refuses, as an AuthorityFolderError that names the file."""
    try:
        yield
    except OSError as error:
        raise AuthorityFolderError(f"{error.filename or path}: {error.strerror}") from error
