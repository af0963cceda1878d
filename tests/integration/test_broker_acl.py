"""The access list of docs/broker.md, in a real Mosquitto: what it lets devices and clients do, and what not."""

from __future__ import annotations

import queue
import re
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest

from registry.contracts.topics import Topics
from scripts.demo.paho_session import end_session
from tests.support.network.broker import Mosquitto
from tests.support.paths import ROOT

TOPICS = Topics()
APP, REPLIES = "camera-app", "modelfleet-replies/camera-app/x"
ALLOWED = [
    (APP, TOPICS.infer("edge-1", "lenet"), "edge-1"),
    (APP, TOPICS.metadata("edge-1"), "edge-1"),
    (APP, TOPICS.metadata("edge-1", "lenet"), "edge-1"),
    (APP, TOPICS.pool("lenet"), "edge-1"),
    (APP, TOPICS.pool_metadata("lenet"), "edge-1"),
    (APP, REPLIES, APP),
    ("edge-1", REPLIES, APP),
    ("edge-1", TOPICS.device("edge-1", "presence"), APP),
    ("edge-1", TOPICS.device("edge-1", "reported"), "registry"),
    ("registry", TOPICS.device("edge-1", "desired"), "edge-1"),
]
FORBIDDEN = [
    (APP, TOPICS.device("edge-1", "desired"), "edge-1"),
    (APP, TOPICS.device("edge-1", "presence"), "registry"),
    ("edge-2", TOPICS.infer("edge-1", "lenet"), "edge-1"),
    ("edge-2", TOPICS.device("edge-1", "reported"), "registry"),
    ("edge-1", TOPICS.device("edge-1", "reported"), APP),
    ("edge-1", "modelfleet-replies/another/x", APP),
]


class User:
    """A client with a user name, which hears all that it may."""

    def __init__(self, port: int, name: str) -> None:
        self.heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._ready: queue.Queue[bool] = queue.Queue()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.username_pw_set(name)
        self.client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self.client.on_subscribe = lambda *_: self._ready.put(True)
        self.client.on_message = lambda _c, _u, message: self.heard.put((message.topic, message.payload))
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self._ready.get(timeout=60)

    def hears(self, topic: str, text: bytes) -> list[bytes]:
        """What it hears until this message, which must come."""
        texts: list[bytes] = []
        while (heard := self.heard.get(timeout=60)) != (topic, text):
            texts.append(heard[1])
        return texts

    def says(self, topic: str, text: bytes) -> None:
        self.client.publish(topic, text, 1).wait_for_publish(60)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, User]]:
    folder: Path = tmp_path_factory.mktemp("acl")
    found = re.search(r"```\n(pattern .*?)```", (ROOT / "docs" / "broker.md").read_text(), re.DOTALL)
    assert found is not None
    (folder / "acl").write_text(found.group(1))
    (folder / "acl").chmod(0o600)
    broker = Mosquitto(folder, f"acl_file {folder / 'acl'}\n").start()
    connected = {name: User(broker.port, name) for name in ("registry", "edge-1", "edge-2", APP)}
    yield connected
    for user in connected.values():
        end_session(user.client)
    broker.stop()


@pytest.mark.parametrize(("sender", "topic", "receiver"), ALLOWED)
def test_who_may_say_something_is_heard(users: dict[str, User], sender: str, topic: str, receiver: str) -> None:
    text = f"{sender} on {topic}".encode()
    users[sender].says(topic, text)
    users[receiver].hears(topic, text)


@pytest.mark.parametrize(("sender", "topic", "receiver"), FORBIDDEN)
def test_who_may_not_is_not_heard(users: dict[str, User], sender: str, topic: str, receiver: str) -> None:
    users[sender].says(topic, b"forbidden")
    who, where, _ = next(each for each in ALLOWED if each[2] == receiver)
    after = f"after {sender} on {topic}".encode()
    users[who].says(where, after)
    assert b"forbidden" not in users[receiver].hears(where, after)
