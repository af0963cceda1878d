"""Anything may be killed in the middle of work: nothing that was acknowledged is lost, and everybody comes back."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from registry.client.devices import Client, DeviceError
from scripts.demo.paho_session import end_session
from scripts.demo.processes import wait_until
from tests.e2e.conftest import DEVICE
from tests.support.paths import LENET_FOLDER
from tests.support.programs.fleet import Fleet

X = np.zeros((1, 1, 28, 28), np.float32)


@pytest.fixture(scope="module", autouse=True)
def _lenet_serves(fleet: Fleet) -> None:
    fleet.registry("publish", str(LENET_FOLDER / "lenet.toml"))
    fleet.registry("deploy", "lenet@1.0.0", "--device", DEVICE, "--wait")


class Asker:
    """A client that keeps requests at QoS 1 under way and, as a careful one does, asks again what was not answered."""

    def __init__(self, port: int) -> None:
        self.answered: dict[int, int] = {}
        self.errors: queue.Queue[str] = queue.Queue()
        self._ready = threading.Event()
        client = self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5, client_id="asker")
        client.on_socket_open = lambda _c, _u, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.on_connect = lambda c, *_: c.subscribe("asker/replies", qos=1)
        client.on_subscribe = lambda *_: self._ready.set()
        client.on_message = self._on_message
        client.reconnect_delay_set(1, 1)
        client.connect("127.0.0.1", port)
        client.loop_start()
        assert self._ready.wait(10)

    def ask(self, number: int) -> None:
        """One request; its number travels as correlation data and as id."""
        tensor = {"name": "x", "shape": [1, 1, 28, 28], "datatype": "FP32", "parameters": {"binary_data_size": 3136}}
        head = json.dumps({"id": f"r{number}", "inputs": [tensor]}).encode()
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = "asker/replies"
        properties.CorrelationData = str(number).encode()
        properties.UserProperty = ("inference-header-content-length", str(len(head)))
        topic = f"modelfleet/v1/devices/{DEVICE}/infer/lenet"
        self.client.publish(topic, head + X.tobytes(), qos=1, properties=properties)

    def _on_message(self, _c: object, _u: object, message: mqtt.MQTTMessage) -> None:
        assert message.properties is not None
        number = int(message.properties.CorrelationData)
        body = json.loads(message.payload)
        if "error" in body:
            self.errors.put_nowait(body["code"])
        else:
            self.answered[number] = self.answered.get(number, 0) + 1

    def close(self) -> None:
        """Disconnects."""
        end_session(self.client)


@pytest.fixture
def asker(fleet: Fleet) -> Iterator[Asker]:
    one = Asker(fleet.broker_port)
    yield one
    one.close()


def answers(client: Client) -> bool:
    """Does the device answer a request now?"""
    try:
        return client.infer(DEVICE, "lenet", {"x": X}, timeout=2)["y"].shape == (1, 10)
    except DeviceError:
        return False


def worker_of(fleet: Fleet) -> int:
    """The pid of the agent's worker; 0 while there is none."""
    for task in Path(f"/proc/{fleet.processes[DEVICE].pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread or a child that ended meanwhile
            for child in (task / "children").read_text().split():
                if b"worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
    return 0


def test_requests_under_way_when_the_agent_is_killed_are_answered_by_the_next_one(fleet: Fleet, asker: Asker) -> None:
    for number in range(300):
        asker.ask(number)
        if number == 150:
            fleet.processes[DEVICE].kill()
    fleet.processes[DEVICE].start(lambda: True)
    wait_until(lambda: len(asker.answered) + asker.errors.qsize() >= 300, "every request to be answered")
    assert asker.errors.qsize() == 0 or len(asker.answered) > 150


def test_a_killed_worker_is_replaced_and_the_agent_answers_again(fleet: Fleet, client: Client) -> None:
    wait_until(lambda: answers(client), "an answer")
    first = worker_of(fleet)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: worker_of(fleet) not in (0, first), "a new worker")
    wait_until(lambda: answers(client), "an answer of the new worker")


def test_every_request_gets_a_result_although_the_broker_is_killed(fleet: Fleet, asker: Asker) -> None:
    for number in range(200):
        asker.ask(number)
        if number == 100:
            fleet.processes["broker"].kill()
            fleet.start_broker()
    wait_until(asker.client.is_connected, "the client to be back")

    def all_answered() -> bool:
        missing = [n for n in range(200) if n not in asker.answered]
        for number in missing[:20]:
            asker.ask(number)
        return not missing

    wait_until(all_answered, "every request to be answered")


def test_the_agent_goes_on_answering_while_the_registry_is_dead(fleet: Fleet, client: Client) -> None:
    fleet.processes["registry"].kill()
    assert answers(client)
    fleet.start_registry()
    assert fleet.registry("show", "lenet@1.0.0")["version"]


def test_a_deployment_made_just_before_the_registry_died_arrives_when_it_is_back(fleet: Fleet) -> None:
    fleet.registry("publish", "second", str(LENET_FOLDER / "lenet.onnx"), "--version", "1", "--target", "cpu")
    fleet.registry("deploy", "second@1", "--device", DEVICE)
    fleet.processes["registry"].kill()
    fleet.start_registry()

    def serves() -> bool:
        models = fleet.registry("devices", "show", DEVICE)["reported"]["models"]
        return bool(models.get("second", {}).get("state") == "serving")

    wait_until(serves, "the second model to serve", 60)


def test_an_agent_without_registry_and_broker_serves_what_it_has(fleet: Fleet) -> None:
    fleet.processes[DEVICE].kill()
    fleet.processes["registry"].kill()
    fleet.processes["broker"].kill()
    fleet.processes[DEVICE].start(lambda: True)
    wait_until(lambda: worker_of(fleet), "a worker without any network")
    fleet.start_broker()
    with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as client:
        wait_until(lambda: answers(client), "an answer without the registry")
    fleet.start_registry()
