"""SIGHUP: read again what can change while the registry runs, or, from a terminal that hung up, end in order.

The handler writes one byte: it may interrupt any line, with any lock held. A thread does the work.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from registry.client.address import ADMIN_TOKEN_FILE
from registry.config import RegistryConfig
from registry.errors import RegistryError
from registry.server.composition import Services, given_admin_token

log = logging.getLogger(__name__)
Load = Callable[[], RegistryConfig]
TAKEN = frozenset({"log_level", "admin_token", "admin_token_file", "mqtt"})
"""Settings that `reload` takes; of `mqtt` the credentials."""
JOIN_S = 10.0


class Hangups:
    """What SIGHUP asks for; asked before `serve`, it is done then."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._worker: threading.Thread | None = None

    def ask(self, *_: object) -> None:
        """In a signal handler: a terminal that hung up ends the registry, anything else is to be read again."""
        if sys.stdin is not None and sys.stdin.isatty():
            os.kill(os.getpid(), signal.SIGTERM)
            return
        with suppress(BlockingIOError):  # many of them wait already
            os.write(self._write_end, b"h")

    def serve(self, services: Services, load: Load) -> None:
        """From now on."""

        def work() -> None:
            while os.read(self._read_end, 4096).startswith(b"h"):
                reload(services, load)

        self._worker = threading.Thread(target=work, name="reload", daemon=True)
        self._worker.start()

    def close(self) -> None:
        """No more."""
        os.close(self._write_end)
        if self._worker is not None:
            self._worker.join(JOIN_S)


@contextmanager
def hangups() -> Iterator[Hangups]:
    """SIGHUP is handled as long as this lasts, and kills nothing after it; where it is ignored (nohup) it stays so."""
    asked = Hangups()
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, asked.ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        asked.close()


def reload(services: Services, load: Load) -> None:
    """Take settings and credentials as they are on the disk now. What is wrong with them is logged and not taken."""
    try:
        config = load()
    except (OSError, ValueError) as error:  # ValidationError is a ValueError; it may quote a secret
        log.error("SIGHUP: the settings cannot be read (%s); those of before stay", type(error).__name__)  # noqa: TRY400
        return
    logging.getLogger().setLevel(config.log_level.upper())
    try:
        given = given_admin_token(config)
        if given is not None:
            services.tokens.ensure_admin(given, services.config.data_dir / ADMIN_TOKEN_FILE, services.clock())
    except (RegistryError, OSError) as error:
        log.error("SIGHUP: the administrator's token of before stays: %s", error)  # noqa: TRY400 - the text says all
    if services.fleet.bridge is not None:
        services.fleet.bridge.renew(config.mqtt)
    before = services.config
    later = [name for name in type(config).model_fields if getattr(config, name) != getattr(before, name)]
    untaken = ", ".join(name for name in later if name not in TAKEN)
    more = f"; taken only at a start: {untaken}" if untaken else ""
    log.info("SIGHUP: log level, administrator's token and the broker's credentials are those of now%s", more)
