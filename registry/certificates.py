"""TLS contexts for both programs, whose files may be replaced at any time: they are read when a connection is made.

Replaced is whatever changes what the path leads to: written in place, renamed over, or another target of a link, as
Kubernetes swaps the folder of a secret. Files that cannot be used now, because they are being replaced one after the
other, leave the context of before.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
import threading
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

log = logging.getLogger(__name__)
Fingerprint = Optional[tuple[int, ...]]


class CertificateError(Exception):
    """Files that cannot be used; the text names the settings `ca_file`, `cert_file`, `key_file` and the paths."""


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


@dataclass(frozen=True)
class TlsFiles:
    """PEM files. `ca_file` None: the authorities of the system. `cert_file` None: the client shows no certificate."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def fingerprint(self) -> Fingerprint:
        """Of all of them."""
        return fingerprint(self.ca_file, self.cert_file, self.key_file)

    def context(self) -> ssl.SSLContext:
        """Of the files as they are now. Raises CertificateError."""
        try:
            context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise CertificateError(f"ca_file {self.ca_file} cannot be used: {error}") from error
        context.sslsocket_class = _Socket
        if self.cert_file is not None:
            try:
                context.load_cert_chain(self.cert_file, self.key_file)
            except (OSError, ValueError) as error:
                files = f"cert_file {self.cert_file} with key_file {self.key_file}"
                raise CertificateError(f"{files} cannot be used: {error}") from error
        return context


class RenewedContext(ssl.SSLContext):
    """A client's context that takes its files again for each connection when they have changed. Thread-safe."""

    _files: TlsFiles
    _made_of: Fingerprint
    _context: ssl.SSLContext
    _lock: threading.Lock

    def __new__(cls, files: TlsFiles) -> RenewedContext:
        """Raises CertificateError."""
        self = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        self._files = files
        self._made_of = files.fingerprint()
        self._context = files.context()
        self._lock = threading.Lock()
        return self

    def renew(self, files: TlsFiles) -> bool:
        """Take these files from the next connection on. True: they differ from those of the last one."""
        with self._lock:
            self._files = files
            now = files.fingerprint()
            return now is None or now != self._made_of

    def wrap_socket(self, *arguments: Any, **named: Any) -> ssl.SSLSocket:
        """As SSLContext says."""
        return self._current().wrap_socket(*arguments, **named)

    def _current(self) -> ssl.SSLContext:
        with self._lock:
            now = self._files.fingerprint()
            if now is None or now != self._made_of:
                try:
                    self._context = self._files.context()
                except CertificateError as error:
                    log.warning("the files of before are used on: %s", error)
                else:
                    self._made_of = now
            return self._context


class _Socket(ssl.SSLSocket):
    """Closes itself when the handshake fails: paho forgets it then."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def expires_at(file: str | Path) -> float | None:
    """When the first of the certificates in a PEM file ends, Unix time; None: there is none that can be read."""
    try:
        text = Path(file).read_text("ascii", "replace")
        found = [not_after(ssl.PEM_cert_to_DER_cert(pem)) for pem in _PEM.findall(text)]
    except (OSError, ValueError):
        return None
    return min(found, default=None)


_PEM = re.compile(f"{ssl.PEM_HEADER}.*?{ssl.PEM_FOOTER}", re.DOTALL)
_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18
"""Tags of ITU-T X.690."""


def not_after(der: bytes) -> float:
    """The end of a certificate's validity (RFC 5280, 4.1.2.5), Unix time. Raises ValueError: it is no certificate."""
    try:
        _, at, _ = _element(der, 0)  # Certificate
        _, at, _ = _element(der, at)  # its TBSCertificate
        if der[at] == _VERSION:
            at = _element(der, at)[2]
        for _skipped in ("serialNumber", "signature", "issuer"):
            at = _element(der, at)[2]
        _, at, _ = _element(der, at)  # Validity
        tag, start, end = _element(der, _element(der, at)[2])
        text = der[start:end].decode("ascii")
        if tag == _UTC_TIME:
            text = ("20" if int(text[:2]) < 50 else "19") + text
        elif tag != _GENERALIZED_TIME:
            raise ValueError(f"tag {tag} is no time")
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()
    except IndexError as error:
        raise ValueError("it ends too early") from error


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """The tag of the element that begins there, and where its content begins and ends."""
    tag, length, start = der[at], der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(der[start : start + size], "big"), start + size
    if start + length > len(der):
        raise ValueError("it ends too early")
    return tag, start, start + length
