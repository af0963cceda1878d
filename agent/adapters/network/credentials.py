"""Credentials in files, which may be replaced at any time: read when they are used, not once.

Replaced is whatever changes what the path leads to: written in place, renamed over, or another target of a link, as
Kubernetes swaps the folder of a secret.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from agent.config.settings import ConfigError, read_secret
from agent.errors import PermanentError

_log = logging.getLogger(__name__)
Reader = Callable[[], "str | None"]
Fingerprint = tuple[int, ...] | None


def secret_reader(value: SecretStr | None, file: Path | None) -> Reader:
    """What reads the secret that the settings hold or name; it answers None when they do neither."""
    if value is not None or file is None:
        return lambda: read_secret(value, None)
    return SecretFile(file)


class SecretFile:
    """A secret in a file. Thread-safe."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._last: str | None = None

    def __call__(self) -> str | None:
        """The secret as the file holds it now, or the last one while it cannot be read: it is being replaced.

        Raises:
            ConfigError: it cannot be read, and never could.
        """
        try:
            self._last = read_secret(None, self._file)
        except ConfigError:
            if self._last is None:
                raise
        return self._last


class _Socket(ssl.SSLSocket):
    """Closes itself when the handshake fails: paho forgets it then."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


@dataclass(frozen=True)
class TlsSettings:
    """Files in PEM form. `ca_file` None: the system's authorities."""

    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def fingerprint(self) -> Fingerprint:
        """Of all of them."""
        return fingerprint(self.ca_file, self.certificate, self.key)

    def context(self) -> ssl.SSLContext:
        """Of the files as they are now. Raises PermanentError (bad_config) for files that cannot be used."""
        try:
            context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        except OSError as error:  # ssl.SSLError is one, too
            raise PermanentError("bad_config", f"mqtt.ca_file {self.ca_file} cannot be used: {error}") from None
        context.sslsocket_class = _Socket
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key)
            except OSError as error:
                files = f"mqtt.cert_file {self.certificate} with mqtt.key_file {self.key}"
                raise PermanentError("bad_config", f"{files} cannot be used: {error}") from None
        return context


class RenewedContext(ssl.SSLContext):
    """A client's context that takes its files again for each connection when they have changed.

    Files that cannot be used now, because they are being replaced one after the other, leave the context of before.
    """

    _settings: TlsSettings
    _made_of: Fingerprint
    _context: ssl.SSLContext
    _lock: threading.Lock

    def __new__(cls, settings: TlsSettings) -> RenewedContext:
        """Raises PermanentError (bad_config) for files that cannot be used."""
        self = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        self._settings = settings
        self._made_of = settings.fingerprint()
        self._context = settings.context()
        self._lock = threading.Lock()
        return self

    def wrap_socket(self, *arguments: Any, **named: Any) -> ssl.SSLSocket:
        """As SSLContext says."""
        return self._current().wrap_socket(*arguments, **named)

    def _current(self) -> ssl.SSLContext:
        with self._lock:
            now = self._settings.fingerprint()
            if now is None or now != self._made_of:
                try:
                    self._context = self._settings.context()
                except PermanentError as error:
                    _log.warning("the files of before are used on: %s", error.message)
                else:
                    self._made_of = now
            return self._context


def fingerprint(*files: str | Path | None) -> Fingerprint:
    """What changes when a file is written, replaced, or reached through another link; None: one cannot be read."""
    found: list[int] = []
    for file in files:
        if file is not None:
            try:
                status = os.stat(file)
            except OSError:
                return None
            found += (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return tuple(found)
