"""The registry's credentials at the broker, in files that may be replaced at any time: read for each connection.

A password that cannot be read now leaves the one of before; for the files of TLS see `registry.certificates`.
"""

from __future__ import annotations

import logging
import threading

from registry.certificates import CertificateError, RenewedContext, TlsFiles
from registry.config import Mqtt
from registry.errors import StartError

log = logging.getLogger(__name__)
_RENEWED = ("username", "password", "password_file", "ca_file", "cert_file", "key_file")


class Credentials:
    """Of one set of settings, which `renew` replaces. Thread-safe."""

    def __init__(self, config: Mqtt) -> None:
        """Raises StartError: the certificates cannot be used; OSError: the password's file cannot be read."""
        self._lock = threading.Lock()
        self._config = config
        self._password = config.read_password()
        try:
            self.context = RenewedContext(_files(config)) if config.tls else None
        except CertificateError as error:
            raise StartError("mqtt_tls", f"The broker's certificates cannot be used: {error}") from error

    def login(self) -> tuple[str | None, str | None]:
        """User name and password as they are now."""
        with self._lock:
            try:
                self._password = self._config.read_password()
            except (OSError, ValueError) as error:
                log.warning("MQTT: the password of before is used on: %s", error)
            return self._config.username, self._password

    def renew(self, config: Mqtt) -> bool:
        """Take these settings' credentials; host, port and the like stay. True: they are others than before."""
        with self._lock:
            before = self._config.username, self._password
            self._config = self._config.model_copy(update={name: getattr(config, name) for name in _RENEWED})
            other_files = self.context is not None and self.context.renew(_files(self._config))
        return self.login() != before or other_files


def _files(config: Mqtt) -> TlsFiles:
    return TlsFiles(config.ca_file, config.cert_file, config.key_file)
