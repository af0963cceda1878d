"""What `registry broker config mosquitto` writes, in a real Mosquitto: who may write which topic, and who hears it."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import product
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from registry.authority.certificates import KeyPair, issue_client
from registry.authority.folder import DEVICES, SERVICES, AuthorityFolder
from registry.brokers.access import Application, BrokerAccess, BrokerSettings
from registry.brokers.writing import write_broker
from scripts.demo.paho_session import end_session
from scripts.demo.processes import Process, listens
from tests.support.network.broker import free_port

P = "modelfleet/v1"
NOW = datetime.fromtimestamp(time.time(), timezone.utc)
YEAR = timedelta(days=365)
APPLICATIONS = {
    "camera-app": Application(models=("lenet",), devices=("edge-1",)),
    "dashboard": Application(models=("*",), devices=("*",), pools=True, results=True),
    "edge-2": Application(models=("lenet",), devices=("edge-1",)),  # an application with a device's name
}
REGISTRY, CAMERA, DASHBOARD, ONE, TWO = "registry", "camera-app", "dashboard", "device edge-1", "device edge-2"
NAMESAKE = "application edge-2"
CALLERS = (REGISTRY, CAMERA, DASHBOARD, ONE, TWO, NAMESAKE)
HEARD: dict[tuple[str, str], set[str]] = {
    (ONE, f"{P}/devices/edge-1/presence"): {REGISTRY, CAMERA, DASHBOARD, NAMESAKE},
    (ONE, f"{P}/devices/edge-1/reported"): {REGISTRY},
    (ONE, f"{P}/devices/edge-1/events"): {REGISTRY},
    (ONE, f"{P}/devices/edge-1/health"): {REGISTRY},
    (ONE, f"{P}/devices/edge-1/results/lenet"): {REGISTRY, DASHBOARD},
    (ONE, f"{P}/devices/edge-1/doctor"): {ONE},
    (ONE, "modelfleet-replies/camera-app/c/x"): {CAMERA},
    (ONE, "modelfleet-replies/registry/c/x"): {REGISTRY},
    (TWO, f"{P}/devices/edge-2/presence"): {REGISTRY, DASHBOARD},
    (TWO, "modelfleet-replies/camera-app/c/x"): {CAMERA},
    (TWO, "modelfleet-replies/registry/c/x"): {REGISTRY},
    (REGISTRY, f"{P}/devices/edge-1/desired"): {ONE},
    (REGISTRY, f"{P}/devices/edge-1/notice"): {ONE},
    (REGISTRY, f"{P}/devices/edge-1/presence"): {REGISTRY, CAMERA, DASHBOARD, NAMESAKE},
    (REGISTRY, f"{P}/devices/edge-2/presence"): {REGISTRY, DASHBOARD},
    (REGISTRY, f"{P}/devices/edge-1/reported"): {REGISTRY},
    (REGISTRY, f"{P}/devices/edge-1/events"): {REGISTRY},
    (REGISTRY, f"{P}/devices/edge-1/infer/lenet"): {ONE},
    (REGISTRY, f"{P}/devices/edge-1/infer/other"): {ONE},
    (REGISTRY, f"{P}/devices/edge-1/metadata"): {ONE},
    (REGISTRY, f"{P}/devices/edge-1/metadata/lenet"): {ONE},
    (REGISTRY, f"{P}/devices/edge-2/infer/lenet"): {TWO},
    (REGISTRY, f"{P}/infer/lenet"): {ONE, TWO},
    (REGISTRY, f"{P}/metadata/lenet"): {ONE, TWO},
    (REGISTRY, "modelfleet-replies/registry/c/x"): {REGISTRY},
    (CAMERA, f"{P}/devices/edge-1/infer/lenet"): {ONE},
    (CAMERA, f"{P}/devices/edge-1/metadata"): {ONE},
    (CAMERA, f"{P}/devices/edge-1/metadata/lenet"): {ONE},
    (CAMERA, "modelfleet-replies/camera-app/c/x"): {CAMERA},
    (NAMESAKE, f"{P}/devices/edge-1/infer/lenet"): {ONE},
    (NAMESAKE, f"{P}/devices/edge-1/metadata"): {ONE},
    (NAMESAKE, f"{P}/devices/edge-1/metadata/lenet"): {ONE},
    (DASHBOARD, f"{P}/devices/edge-1/infer/lenet"): {ONE},
    (DASHBOARD, f"{P}/devices/edge-1/infer/other"): {ONE},
    (DASHBOARD, f"{P}/devices/edge-1/metadata"): {ONE},
    (DASHBOARD, f"{P}/devices/edge-1/metadata/lenet"): {ONE},
    (DASHBOARD, f"{P}/devices/edge-2/infer/lenet"): {TWO},
    (DASHBOARD, f"{P}/infer/lenet"): {ONE, TWO},
    (DASHBOARD, f"{P}/metadata/lenet"): {ONE, TWO},
}
"""Who may write what, and everybody who hears it. Every other pair of a caller and one of these topics is refused."""
OUTSIDE = (f"{P}/other", "homeassistant/sensor/x/config", "other/tree", "modelfleet-replies", "$SYS/x")
TOPICS = sorted({topic for _, topic in HEARD})
REFUSED = [
    *(pair for pair in product(CALLERS, TOPICS) if pair not in HEARD),
    *(
        (caller, topic)
        for caller, topic in product(CALLERS, OUTSIDE)
        if not (caller in {ONE, TWO} and "replies" in topic)
    ),
]


@dataclass
class World:
    """A broker with the settings that were written, and a certificate for each caller."""

    folder: Path
    settings: BrokerSettings
    authorities: AuthorityFolder
    process: Process
    pairs: dict[str, KeyPair] = field(default_factory=dict)

    def pair(self, caller: str) -> tuple[KeyPair, int]:
        """Its certificate, and the port that is for it."""
        device = caller.startswith("device ")
        name, which = caller.rpartition(" ")[2], DEVICES if device else SERVICES
        if caller not in self.pairs:
            self.pairs[caller] = issue_client(self.authorities.authority(which, NOW), name, NOW, YEAR)
        return self.pairs[caller], self.settings.devices_port if device else self.settings.services_port

    def write(self, access: BrokerAccess) -> None:
        """Make the files again and have the broker read them."""
        with self.authorities.locked():
            write_broker(self.authorities, access, self.settings, NOW)
        os.kill(self.process.pid, signal.SIGHUP)


class Caller:
    """A connected client that hears all that it may."""

    def __init__(self, world: World, caller: str, client_id: str = "", port: int | None = None) -> None:
        pair, own = world.pair(caller)
        self.heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._answers: queue.Queue[ReasonCode] = queue.Queue()
        self.ended: queue.Queue[bool] = queue.Queue()
        file = world.folder / f"{caller}-{len(list(world.folder.iterdir()))}.pem"
        file.write_bytes(pair.key + pair.certificate)
        context = ssl.create_default_context(cafile=str(Path(world.settings.folder) / "services-ca.pem"))
        context.load_cert_chain(file)
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        self.client.tls_set_context(context)
        self.client.on_connect = self._connected
        self.client.on_subscribe = lambda _c, _u, _m, reasons, _p: self._answers.put(reasons[0])
        self.client.on_publish = lambda _c, _u, _m, reason, _p: self._answers.put(reason)
        self.client.on_message = lambda _c, _u, message: self.heard.put((message.topic, bytes(message.payload)))
        self.client.on_disconnect = lambda *_: self.ended.put(True)
        self.client.connect("localhost", port or own)
        self.client.loop_start()
        assert not self._answers.get(timeout=60).is_failure
        self._answers.get(timeout=60)

    def _connected(self, client: mqtt.Client, _data: object, _flags: object, reason: ReasonCode, _said: object) -> None:
        self._answers.put(reason)
        client.subscribe("#", 1)

    def publish(self, topic: str, text: bytes) -> ReasonCode:
        """The broker's answer."""
        self.client.publish(topic, text, 1)
        return self._answers.get(timeout=60)

    def hears(self, topic: str, text: bytes) -> list[tuple[str, bytes]]:
        """What it hears until this message, which must come."""
        found = []
        while (heard := self.heard.get(timeout=60)) != (topic, text):
            found.append(heard)
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("broker")
    settings = BrokerSettings(
        kind="mosquitto",
        folder=str(folder / "mosquitto"),
        hosts=("localhost", "127.0.0.1"),
        prefix=P,
        devices_port=free_port(),
        services_port=free_port(),
    )
    authorities = AuthorityFolder(folder / "authority")
    with authorities.locked():
        write_broker(authorities, BrokerAccess(applications=APPLICATIONS), settings, NOW)
    config = folder / "mosquitto" / "mosquitto.conf"
    own = folder / "own.conf"
    own.write_text(config.read_text() + ("user root\n" if os.geteuid() == 0 else ""))
    process = Process("mosquitto", [shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", str(own)], folder)
    process.start(lambda: listens(settings.services_port))
    yield World(folder, settings, authorities, process)
    process.stop(5)


@pytest.fixture(scope="module")
def callers(world: World) -> Iterator[dict[str, Caller]]:
    connected = {name: Caller(world, name) for name in CALLERS}
    yield connected
    for caller in connected.values():
        end_session(caller.client)


LAST = {
    REGISTRY: (ONE, f"{P}/devices/edge-1/health"),
    CAMERA: (CAMERA, "modelfleet-replies/camera-app/c/x"),
    DASHBOARD: (ONE, f"{P}/devices/edge-1/presence"),
    NAMESAKE: (ONE, f"{P}/devices/edge-1/presence"),
    ONE: (REGISTRY, f"{P}/devices/edge-1/notice"),
    TWO: (REGISTRY, f"{P}/devices/edge-2/infer/lenet"),
}
"""For each caller a message that it hears, to know that nothing came before it."""


def test_what_may_be_written_is_heard_by_those_who_may_and_nobody_else(callers: dict[str, Caller]) -> None:
    wrong = {}
    for number, ((sender, topic), expected) in enumerate(HEARD.items()):
        text = f"{number}".encode()
        assert not callers[sender].publish(topic, text).is_failure, (sender, topic)
        heard = set()
        for name, (who, where) in LAST.items():
            callers[who].publish(where, b"last %d %s" % (number, name.encode()))
        for name, (_, where) in LAST.items():
            if (topic, text) in callers[name].hears(where, b"last %d %s" % (number, name.encode())):
                heard.add(name)
        if heard != expected:
            wrong[sender, topic] = (heard, expected)
    assert not wrong


def test_everything_else_is_refused(callers: dict[str, Caller]) -> None:
    taken = [pair for pair in REFUSED if callers[pair[0]].publish(pair[1], b"forbidden").value != 0x87]
    assert not taken


def test_a_device_cannot_take_the_session_of_the_registry_or_of_another_device(
    world: World, callers: dict[str, Caller]
) -> None:
    mine = Caller(world, REGISTRY, client_id="modelfleet-registry")
    intruder = Caller(world, "device edge-9", client_id="modelfleet-registry")
    other = Caller(world, "device edge-8", client_id="edge-1")
    for caller in (mine, callers[ONE]):
        assert not caller.publish(f"{P}/devices/edge-1/presence", b"here").is_failure
        assert caller.ended.empty()
    for caller in (mine, intruder, other):
        end_session(caller.client)


def test_an_application_connects_as_often_as_it_likes(world: World) -> None:
    several = [Caller(world, CAMERA) for _ in range(3)]
    for caller in several:
        assert not caller.publish(f"{P}/devices/edge-1/infer/lenet", b"x").is_failure
        end_session(caller.client)


@pytest.mark.parametrize("caller", [ONE, CAMERA])
def test_a_certificate_of_one_listener_is_worth_nothing_on_the_other(world: World, caller: str) -> None:
    other = world.settings.services_port if caller == ONE else world.settings.devices_port
    with pytest.raises((OSError, AssertionError)):
        _connect_once(world, world.pair(caller)[0], other)


def test_without_a_certificate_and_with_one_that_has_ended_nobody_connects(world: World) -> None:
    ended = issue_client(world.authorities.authority(DEVICES, NOW), "edge-1", NOW - YEAR, timedelta(days=1))
    for pair in (None, ended):
        with pytest.raises((OSError, AssertionError)):
            _connect_once(world, pair, world.settings.devices_port)
    _connect_once(world, world.pair("device edge-5")[0], world.settings.devices_port)


def test_a_device_that_is_denied_says_and_hears_nothing_over_its_open_connection(
    world: World, callers: dict[str, Caller]
) -> None:
    denied = Caller(world, "device edge-6")
    assert not denied.publish(f"{P}/devices/edge-6/health", b"before").is_failure
    world.write(BrokerAccess(applications=APPLICATIONS, denied=("edge-6",)))
    for _ in range(200):  # the broker reads its rules at the next turn of its loop
        if denied.publish(f"{P}/devices/edge-6/health", b"after").value == 0x87:
            break
    assert denied.publish(f"{P}/devices/edge-6/health", b"after").value == 0x87
    assert denied.publish("modelfleet-replies/camera-app/c/x", b"after").value == 0x87
    assert not callers[REGISTRY].publish(f"{P}/devices/edge-6/notice", b"told").is_failure
    world.write(BrokerAccess(applications=APPLICATIONS))
    for _ in range(200):
        if denied.publish(f"{P}/devices/edge-6/health", b"again").value != 0x87:
            break
    assert not denied.publish(f"{P}/devices/edge-6/health", b"again").is_failure
    assert not callers[REGISTRY].publish(f"{P}/devices/edge-6/notice", b"first that is heard").is_failure
    assert denied.hears(f"{P}/devices/edge-6/notice", b"first that is heard") == []
    end_session(denied.client)


def _connect_once(world: World, pair: KeyPair | None, port: int) -> None:
    """MQTT's CONNECT (MQTT 3.1.1, 3.1) over TLS, until it is answered. Raises what TLS or the socket says."""

    context = ssl.create_default_context(cafile=str(Path(world.settings.folder) / "services-ca.pem"))
    if pair is not None:
        file = world.folder / "once.pem"
        file.write_bytes(pair.key + pair.certificate)
        context.load_cert_chain(file)
    with (
        socket.create_connection(("localhost", port), 60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x")
        assert connection.recv(4) == b"\x20\x02\x00\x00"
