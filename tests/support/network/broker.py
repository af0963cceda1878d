"""A real Mosquitto on a free loopback port, for one test or one session. Stopped and killed by its own pid."""

from __future__ import annotations

import os
import queue
import shutil
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from scripts.demo.paho_session import end_session
from scripts.demo.processes import MOSQUITTO, Process, free_port, listens, wait_until

__all__ = ["Mosquitto", "free_port", "wait_for_port"]


def wait_for_port(port: int, seconds: float = 60.0) -> None:
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

    def retained(self, topic: str, seconds: float = 60.0) -> bytes:
        """What is retained on this topic; queue.Empty when nothing came within `seconds`."""
        payloads: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.on_connect = lambda connected, *_: connected.subscribe(topic, qos=1)
        client.on_message = lambda _client, _data, message: payloads.put(bytes(message.payload))
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        try:
            return payloads.get(timeout=seconds)
        finally:
            end_session(client)

    def kill(self) -> None:
        """SIGKILL, as a crash does."""
        self._process.kill()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after 5 s."""
        self._process.stop(5)
