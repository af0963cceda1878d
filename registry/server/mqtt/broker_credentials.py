"""The registry's credentials at the broker, in files that may be replaced at any time: read for each connection.

Files that cannot be read or used now, because they are being replaced one after the other, leave those of before.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from pathlib import Path
from typing import Any

from registry.config import Mqtt
from registry.errors import StartError

log = logging.getLogger(__name__)
Fingerprint = tuple[tuple[int, ...] | None, ...]


class Credentials:
    """Of one set of settings, which `renew` replaces. Thread-safe."""

    def __init__(self, config: Mqtt) -> None:
        """Raises StartError: the certificates cannot be used; OSError: the password's file cannot be read."""
        self._lock = threading.Lock()
        self._config = config
        self._password = config.read_password()
        self._made_of = _fingerprint(config)
        self._context = _context(config) if config.tls else None

    def login(self) -> tuple[str | None, str | None]:
        """User name and password as they are now."""
        with self._lock:
            try:
                self._password = self._config.read_password()
            except (OSError, ValueError) as error:
                log.warning("MQTT: the password of before is used on: %s", error)
            return self._config.username, self._password

    def context(self) -> ssl.SSLContext:
        """For the next connection. Only where the settings say TLS."""
        with self._lock:
            now = _fingerprint(self._config)
            if self._context is None or now != self._made_of:
                try:
                    self._context = _context(self._config)
                    self._made_of = now
                except StartError as error:
                    if self._context is None:
                        raise
                    log.warning("MQTT: the certificates of before are used on: %s", error.message)
            return self._context

    def renew(self, config: Mqtt) -> bool:
        """Take these settings' credentials; host, port and the like stay. True: they are others than before."""
        with self._lock:
            before = self._config.username, self._password, self._made_of
            names = ("username", "password", "password_file", "ca_file", "cert_file", "key_file")
            self._config = self._config.model_copy(update={name: getattr(config, name) for name in names})
            now = _fingerprint(self._config)
        return (*self.login(), now) != before


class BrokerContext(ssl.SSLContext):
    """What paho wraps its sockets with: the newest of the credentials."""

    _credentials: Credentials

    def __new__(cls, credentials: Credentials) -> BrokerContext:
        """A context whose own settings nobody uses."""
        self = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        self._credentials = credentials
        return self

    def wrap_socket(self, *arguments: Any, **named: Any) -> ssl.SSLSocket:
        """As SSLContext says."""
        return self._credentials.context().wrap_socket(*arguments, **named)


class _Socket(ssl.SSLSocket):
    """Closes itself when the handshake fails: paho forgets it then."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _context(config: Mqtt) -> ssl.SSLContext:
    files = [file for file in (config.ca_file, config.cert_file, config.key_file) if file is not None]
    try:
        context = ssl.create_default_context(cafile=str(config.ca_file) if config.ca_file else None)
        context.sslsocket_class = _Socket
        if config.cert_file is not None:
            context.load_cert_chain(config.cert_file, config.key_file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        named = ", ".join(map(str, files)) or "the system's certificates"
        raise StartError("mqtt_tls", f"The broker's certificates cannot be used ({named}): {error}") from error
    return context


def _fingerprint(config: Mqtt) -> Fingerprint:
    """What changes when a file is written, replaced, or reached through another link."""
    return tuple(_of_file(file) for file in (config.ca_file, config.cert_file, config.key_file))


def _of_file(file: Path | None) -> tuple[int, ...] | None:
    if file is None:
        return None
    try:
        status = os.stat(file)
    except OSError:
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
