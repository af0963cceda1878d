"""A real Mosquitto on a free loopback port, for one test or one session. Stopped and killed by its own pid."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from scripts.demo.processes import MOSQUITTO, Process, free_port, listens, wait_until

__all__ = ["Mosquitto", "free_port", "wait_for_port"]


def wait_for_port(port: int, seconds: float = 10.0) -> None:
    """Until something listens on loopback `port`; TimeoutError after `seconds`."""
    wait_until(lambda: listens(port), f"port {port}", seconds)


class Mosquitto:
    """INVARIANT: the port stays the same across `kill` and `start`, so clients reconnect to it."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        self.port = free_port()
        self.folder = folder
        config = folder / f"mosquitto-{self.port}.conf"
        user = "user root\n" if os.geteuid() == 0 else ""
        config.write_text(MOSQUITTO.format(port=self.port, user=user, extra=extra))
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self._process = Process("mosquitto", [program, "-c", str(config)], folder)

    @property
    def pid(self) -> int:
        """Of the running broker."""
        return self._process.pid

    def start(self) -> Mosquitto:
        """Starts the broker and waits until it listens."""
        self._process.start(lambda: listens(self.port))
        return self

    def kill(self) -> None:
        """SIGKILL, as a crash does."""
        self._process.kill()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after 5 s."""
        self._process.stop(5)
