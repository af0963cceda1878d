"""Metadata over a real broker: a client of MQTT 5 and one of 3.1.1 ask a device and a pool what they serve."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
import pytest

from registry.contracts.device.metadata import ModelMetadata, ServerMetadata
from tests.fakes.workers import FakeWorker
from tests.support.clients.asking import Asker, binary_request
from tests.support.clients.serving import Serving
from tests.support.network.broker import Mosquitto

X = np.array([1, 2, 3, 4], np.float32)
POOL = (("cameras", "double"),)


@pytest.fixture(params=["fast", "public"])
def pool(request: pytest.FixtureRequest, broker: Mosquitto, tmp_path: Path) -> Iterator[tuple[Serving, ...]]:
    """Two devices of a pool, and one of the same fleet that is in none; all serve the model."""
    fast, prefix = request.param == "fast", f"test/{tmp_path.name}"
    devices: list[Serving] = []
    for pools in (POOL, POOL, ()):
        device = Serving(broker.port, tmp_path, fast=fast, prefix=prefix, pools=pools)
        devices.append(device)
        device.serve(FakeWorker())
        device.start()
    yield tuple(devices)
    for device in devices:
        device.stop()


@pytest.fixture(params=[mqtt.MQTTv5, mqtt.MQTTv311], ids=["5", "3.1.1"])
def asker(request: pytest.FixtureRequest, pool: tuple[Serving, ...], broker: Mosquitto) -> Iterator[Asker]:
    client = Asker(broker.port, pool[0].infer(), protocol=request.param)
    yield client
    client.close()


def asks(asker: Asker, topic: str, name: str) -> None:
    """As a client of its protocol does."""
    if asker.protocol == mqtt.MQTTv5:
        asker.ask(b"", topic=topic, correlation=name.encode())
        return
    parameters = {"response_topic": asker.reply_topic, "correlation_id": name}
    asker.ask(json.dumps({"parameters": parameters}).encode(), topic=topic)


def answer(asker: Asker, topic: str, name: str) -> dict[str, Any]:
    """The one answer; it is that request's."""
    before = len(asker.answers)
    asks(asker, topic, name)
    found = asker.wait(before + 1)[before]
    head = found.head
    told = found.correlation.decode() if asker.protocol == mqtt.MQTTv5 else head["parameters"]["correlation_id"]
    assert (told, found.qos) == (name, 1)
    return head


def test_a_device_says_what_it_serves(asker: Asker, pool: tuple[Serving, ...]) -> None:
    device = pool[0]
    said = ServerMetadata.model_validate(answer(asker, device.topics.metadata(device.name), "a"))
    assert said.parameters.device == device.name
    assert [(model.name, model.version, model.ready) for model in said.models] == [("double", "1.0.0", True)]
    model = ModelMetadata.model_validate(answer(asker, device.topics.metadata(device.name, "double"), "b"))
    assert [(tensor.name, tensor.datatype, tensor.shape) for tensor in model.inputs] == [("x", "FP32", (-1, 4))]
    refused = answer(asker, device.topics.metadata(device.name, "nothing"), "c")
    assert refused["code"] == "unknown_model"
    device.plane.swap("later", None, None)
    loading = answer(asker, device.topics.metadata(device.name, "later"), "d")
    assert (loading["parameters"]["ready"], loading["parameters"]["code"]) == (False, "model_not_ready")
    figures = device.plane.snapshot().figures
    assert figures["metadata_answered"] == {("server",): 1, ("model",): 2}
    assert figures["metadata_refused"] == {("unknown_model",): 1}


def test_every_agent_of_a_pool_answers_and_no_other(asker: Asker, pool: tuple[Serving, ...]) -> None:
    asks(asker, pool[0].topics.pool_metadata("double"), "p")
    answers = [found.head["parameters"] for found in asker.wait(2)]
    assert {said["device"] for said in answers} == {pool[0].name, pool[1].name}
    assert all(said["pools"] == ["cameras"] and said["ready"] for said in answers)
    # The device outside has had its chance: it answers what came after.
    answer(asker, pool[2].topics.metadata(pool[2].name), "q")
    assert len(asker.answers) == 3


def test_an_agent_of_3_1_1_is_asked_by_the_payload_alone(broker: Mosquitto, tmp_path: Path) -> None:
    device = Serving(broker.port, tmp_path, protocol=4, pools=POOL)
    device.serve(FakeWorker())
    device.start()
    client = Asker(broker.port, device.infer())
    parameters = {"response_topic": client.reply_topic, "correlation_id": "old"}
    try:
        topics = (device.topics.metadata(device.name, "double"), device.topics.pool_metadata("double"))
        for count, topic in enumerate(topics, 1):
            client.ask(json.dumps({"parameters": parameters}).encode(), topic=topic, reply_to="")
            said = ModelMetadata.model_validate(client.wait(count)[-1].head)
            assert (said.parameters.device, said.parameters.correlation_id) == (device.name, "old")
    finally:
        client.close()
        device.stop()


def test_inference_goes_on_beside_a_flood_of_metadata_requests(pool: tuple[Serving, ...], broker: Mosquitto) -> None:
    device, client = pool[0], Asker(broker.port, pool[0].infer())
    try:
        for number in range(300):
            client.ask(b"", topic=device.topics.metadata(device.name), correlation=b"m%d" % number)
        payload, length = binary_request(X)
        client.ask(payload, header_length=length, correlation=b"inference")
        answers = {found.correlation: found.head for found in client.wait(301)}
        assert answers[b"inference"]["model_name"] == "double"
        codes = {found.get("code", "") for name, found in answers.items() if name != b"inference"}
        assert codes <= {"", "overloaded"}
    finally:
        client.close()
