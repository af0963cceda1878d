"""Private keys in a folder: `NAME-KEYID.pem` (PKCS #8), 0600 in a folder of 0700. Metadata say which key signs what.

A file is written whole or not at all, and before any metadata names its key. A key that no metadata names does nothing.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key, Signer

from registry.errors import StorageFailedError
from registry.private_files import make_private, write_whole
from registry.trust.building import RoleKeys
from registry.trust.private_keys import read_private

log = logging.getLogger(__name__)
MAX_KEY_FILE_BYTES = 1 << 14
MAX_KEYS = 1000


class KeyFolder:
    """Thread-safe. A file that comes or goes is noticed at the next use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._seen: tuple[tuple[str, int, int], ...] = ()
        self._signers: dict[str, Signer] = {}
        self._names: dict[str, str] = {}

    def signers(self) -> dict[str, Signer]:
        """The keys that are here, by id. Raises StorageFailedError: the folder cannot be read."""
        with self._lock:
            seen = self._look()
            if seen != self._seen:
                self._load([name for name, _, _ in seen])
                self._seen = seen
            return dict(self._signers)

    def names(self) -> dict[str, str]:
        """The file of each key, by its id."""
        self.signers()
        return dict(self._names)

    def make(self, name: str) -> Signer:
        """A new key (Ed25519), kept in a file whose name begins with `name`. Raises StorageFailedError."""
        signer = CryptoSigner.generate_ed25519()
        file = self.folder / f"{name}-{signer.public_key.keyid[:12]}.pem"
        try:
            make_private(self.folder)
            write_whole(file, signer.private_bytes, replace=False)
        except OSError as error:
            raise StorageFailedError(f"The key {file} cannot be written: {error.strerror}.") from error
        return signer

    def first(self, name: str) -> Signer:
        """A key of that name that is here already, where a start was cut off; else a new one."""
        signers, names = self.signers(), self.names()
        here = [signers[keyid] for keyid, file in names.items() if file.rpartition("-")[0] == name]
        return here[0] if here else self.make(name)

    def forget(self, keyids: Iterable[str]) -> None:
        """Remove the files of these keys: nothing is signed with them any more."""
        names = self.names()
        for keyid in keyids:
            if keyid in names:
                (self.folder / names[keyid]).unlink(missing_ok=True)

    def _look(self) -> tuple[tuple[str, int, int], ...]:
        try:
            with os.scandir(self.folder) as entries:
                found = [
                    (entry.name, (about := entry.stat()).st_mtime_ns, about.st_size)
                    for entry in entries
                    if entry.name.endswith(".pem") and entry.is_file()
                ]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StorageFailedError(f"The folder of keys {self.folder} cannot be read: {error.strerror}.") from error
        return tuple(sorted(found)[:MAX_KEYS])

    def _load(self, names: Iterable[str]) -> None:
        self._signers, self._names = {}, {}
        for name in names:
            try:
                with (self.folder / name).open("rb") as file:
                    signer = read_private(file.read(MAX_KEY_FILE_BYTES))
            except OSError as error:
                raise StorageFailedError(f"The key {self.folder / name} cannot be read: {error.strerror}.") from error
            except ValueError as error:
                log.error("trust: %s holds no key that can be used: %s", self.folder / name, error)  # noqa: TRY400
                continue
            self._signers[signer.public_key.keyid] = signer
            self._names[signer.public_key.keyid] = name


def of_key(key: Key) -> RoleKeys:
    """A role that one key signs."""
    return RoleKeys([key])
