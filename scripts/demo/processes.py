"""The programs of a fleet on loopback: broker, registry, agents. Used by the quick start, the end-to-end tests
and the benchmarks, so all three start them as a user would: by their command lines.

Every process writes its log to a file of its own, is stopped by SIGTERM and, after a deadline, by SIGKILL.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from registry.client.address import ADMIN_TOKEN_FILE
from registry.contracts.paths import device_path

BIN = Path(sys.executable).parent
MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
# Without this a QoS 1 round trip takes 44 ms.
set_tcp_nodelay true
# How many QoS 1 messages one client may have under way: an agent acknowledges a request after its reply.
max_inflight_messages 1000
max_queued_messages 100000
{user}{extra}
"""
IOTCORE = """\
id = 0
[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "loopback"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 5000
max_payload_size = 268435455
max_inflight_count = 1000
dynamic_filters = true
"""


def free_port() -> int:
    """A port that was free a moment ago, on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Polls until `true()` is truthy; TimeoutError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Does something accept connections on this loopback port?"""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """One program; may be started again after it was stopped or killed."""

    def __init__(self, name: str, argv: list[str], folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.name, self.argv, self.log = name, argv, folder / f"{name}.log"
        self.env = {**os.environ, **(env or {})}
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; RuntimeError when it does not run."""
        if self._child is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Has it been started, and not ended?"""
        return self._child is not None and self._child.poll() is None

    def start(self, ready: Callable[[], object], seconds: float = 60.0) -> None:
        """Starts it and waits for `ready`. RuntimeError with the end of its log when it ends or is not ready."""
        self._child = self.spawn()
        try:
            wait_until(lambda: not self.running or ready(), self.name, seconds)
        except TimeoutError as error:
            self.stop()
            raise RuntimeError(f"{error}\n{self.tail()}") from None
        if not self.running:
            raise RuntimeError(f"{self.name} ended with {self._child.returncode}\n{self.tail()}")

    def spawn(self) -> subprocess.Popen[bytes]:
        """The program as a process of its own."""
        with self.log.open("ab") as log:
            return subprocess.Popen(self.argv, stdout=log, stderr=log, env=self.env, start_new_session=True)

    def tail(self, lines: int = 25) -> str:
        """The last lines of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def kill(self) -> None:
        """SIGKILL, as a crash or a power cut does."""
        self._end(signal.SIGKILL, 0)

    def stop(self, seconds: float = 25.0) -> int | None:
        """SIGTERM, then SIGKILL after `seconds`; the exit code."""
        return self._end(signal.SIGTERM, seconds)

    def _end(self, how: signal.Signals, seconds: float) -> int | None:
        if self._child is None:
            return None
        if self._child.poll() is None:
            self._child.send_signal(how)
        try:
            self._child.wait(timeout=seconds or 10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(timeout=10)
        code = self._child.returncode
        self._child = None
        return code


class Fleet:
    """A broker, a registry and agents with their data below one folder. Use as a context manager."""

    program: type[Process] = Process
    """How its programs are started."""

    def __init__(self, folder: Path, registry_port: int = 0, broker_port: int = 0) -> None:
        self.folder = folder
        self.registry_port = registry_port or free_port()
        self.broker_port = broker_port or free_port()
        self.url = f"http://127.0.0.1:{self.registry_port}"
        self.registry_data = folder / "registry"
        self.processes: dict[str, Process] = {}

    def __enter__(self) -> Fleet:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Everything, the agents first."""
        for process in reversed(self.processes.values()):
            process.stop()

    def start_broker(self, extra: str = "") -> Process:
        """Mosquitto where there is one, otherwise the MQTT 5 broker from PyPI (see docs/broker.md)."""
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if program:
            config = self.folder / "mosquitto.conf"
            user = "user root\n" if os.geteuid() == 0 else ""
            config.write_text(MOSQUITTO.format(port=self.broker_port, user=user, extra=extra))
            argv = [program, "-c", str(config)]
        else:
            config = self.folder / "iotcore.toml"
            config.write_text(IOTCORE.format(port=self.broker_port))
            argv = [sys.executable, "-m", "iotcore", "--config", str(config)]
        return self._start("broker", argv, {}, lambda: listens(self.broker_port))

    def start_registry(self, **env: str) -> Process:
        """`registry serve`, with this fleet's broker. Keyword arguments become environment variables."""
        settings = {
            "MODELFLEET_REGISTRY_DATA_DIR": str(self.registry_data),
            "MODELFLEET_REGISTRY_PORT": str(self.registry_port),
            "MODELFLEET_REGISTRY_MQTT__HOST": "127.0.0.1",
            "MODELFLEET_REGISTRY_MQTT__PORT": str(self.broker_port),
            **env,
        }
        return self._start("registry", [str(BIN / "registry"), "serve"], settings, self._registry_answers)

    def add_device(self, device: str) -> str:
        """Registers a device; its credential."""
        return str(self.registry("devices", "add", device)["token"])

    def start_agent(
        self, device: str, token: str = "", ready: Callable[[], object] | None = None, **env: str
    ) -> Process:
        """`agent run` for a device of this fleet; ready, by default, when it says that it is online."""
        settings = {
            "MODELFLEET_AGENT_CONFIG": os.devnull,  # not that of an agent which is installed on this host
            "MODELFLEET_AGENT_DEVICE": device,
            "MODELFLEET_AGENT_DATA_DIR": str(self.folder / device),
            "MODELFLEET_AGENT_REGISTRY__URL": self.url,
            "MODELFLEET_AGENT_MQTT__HOST": "127.0.0.1",
            "MODELFLEET_AGENT_MQTT__PORT": str(self.broker_port),
            **({"MODELFLEET_AGENT_REGISTRY__TOKEN": token} if token else {}),
            **env,
        }
        argv = [str(BIN / "agent"), "run"]
        return self._start(device, argv, settings, ready or (lambda: self.is_online(device)))

    def is_online(self, device: str) -> bool:
        """Does the registry see the device as connected?"""
        token = (self.registry_data / ADMIN_TOKEN_FILE).read_text().strip()
        answer = httpx.get(self.url + device_path(device), headers={"Authorization": f"Bearer {token}"}, timeout=10)
        presence = answer.raise_for_status().json().get("presence")
        return bool(presence and presence["online"])

    def registry(self, *arguments: str, check: bool = True) -> Any:
        """The `registry` command with `--json`: its parsed output. RuntimeError when it fails and `check` is set."""
        env = {
            **os.environ,
            "MODELFLEET_REGISTRY": self.url,
            "MODELFLEET_REGISTRY_DATA_DIR": str(self.registry_data),
            "MODELFLEET_BROKER": f"mqtt://127.0.0.1:{self.broker_port}",
        }
        code, out, err = self.run_command([*arguments, "--json"], env)
        if code and check:
            raise RuntimeError(f"registry {' '.join(arguments)}: exit code {code}\n{out}{err}")
        return json.loads(out) if out.strip() else None

    def run_command(self, arguments: list[str], env: Mapping[str, str]) -> tuple[int, str, str]:
        """The `registry` command in a process of its own: exit code, stdout, stderr."""
        argv = [str(BIN / "registry"), *arguments]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout, done.stderr

    def _registry_answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def _start(self, name: str, argv: list[str], env: dict[str, str], ready: Callable[[], object]) -> Process:
        process = self.processes[name] = self.program(name, argv, self.folder, env)
        process.start(ready)
        return process
