"""Metadata requests: what is answered, to whom, and what happens when there are too many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from agent.dataplane.metadata import MAX_PER_TURN, MAX_WAITING, MetadataRequests
from agent.dataplane.mqtt.outbound import Outbound
from agent.dataplane.router import Router
from registry.contracts.broker import BrokerLimits
from registry.contracts.catalogue.manifest import Classification, ImageInput, TensorSpec
from registry.contracts.counters import AGENT_METRICS, Counters
from registry.contracts.device.deployments import DeploymentProgress, Phase
from registry.contracts.device.messages import Fault, ReportedModel, ServingState
from registry.contracts.device.metadata import MAX_PAUSE_S, MAX_REQUEST_BYTES, ModelMetadata, ServerMetadata
from registry.contracts.topics import Topics
from registry.inference.packets import Publish, text
from tests.fakes.workers import FakeWorker, binding_for
from tests.unit.agent.dataplane.test_outbound import Disk, Wire

TOPICS = Topics("p")
SERVER = TOPICS.metadata("cam")
REPLY = text(b"replies/me")


class Device:
    """A data path of which only metadata requests are driven, at times of the test's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.wire, self.disk = Wire(), Disk()
        self.counters = Counters(AGENT_METRICS)
        self.router = Router(TOPICS, "cam", (("pool", "double"), ("other", "double"), ("pool", "gone")))
        self.outbound = Outbound(self.wire, self.disk, counters=self.counters)
        self.outbound.opened(BrokerLimits(receive_maximum=100))
        self.requests = MetadataRequests(
            device="cam",
            agent_version="1.2.3",
            topics=TOPICS,
            pools=(("pool", "double"), ("other", "double"), ("pool", "gone")),
            router=self.router,
            outbound=self.outbound,
            counters=self.counters,
            clock=lambda: self.now,
            chance=lambda: 0.5,
        )
        self._mid = 0

    def ask(
        self, topic: str, payload: bytes = b"", *, qos: int = 1, reply_to: bytes = REPLY, retain: bool = False
    ) -> None:
        """One request comes."""
        assert self.requests.takes(topic)
        self._mid += 1
        publish = Publish(topic.encode(), qos, retain, self._mid if qos else 0, 0, reply_to=reply_to)
        ack = self.outbound.acks.owe(publish.mid) if qos else None
        self.requests.ask(topic, publish, payload, ack)

    def turn(self, seconds: float = 0.0) -> None:
        """One turn of the loop, so much later."""
        self.now += seconds
        self.requests.run(self.now)

    def answers(self) -> list[dict[str, Any]]:
        """All documents that were sent so far."""
        payloads = [sent[1] for sent in self.wire.sent if sent[0] != "ack"]
        return [json.loads(payload) for payload in payloads if isinstance(payload, bytes)]

    def one(self, topic: str, payload: bytes = b"") -> dict[str, Any]:
        """The answer to one request."""
        before = len(self.answers())
        self.ask(topic, payload)
        self.turn()
        (answer,) = self.answers()[before:]
        return answer

    def dropped(self, reason: str) -> int:
        return self.counters.total("metadata_dropped", reason)


@pytest.fixture
def worker() -> Iterator[FakeWorker]:
    fake = FakeWorker()
    yield fake
    fake.close()


@pytest.fixture
def device() -> Device:
    return Device()


def test_the_server_says_its_version_extensions_and_models(device: Device, worker: FakeWorker) -> None:
    device.router.assign("loading")
    device.router.assign("double").swap(worker, binding_for(worker))
    answer = ServerMetadata.model_validate(device.one(SERVER, b'{"id":"r1"}'))
    assert (answer.name, answer.version, answer.id) == ("modelfleet", "1.2.3", "r1")
    assert "binary_tensor_data" in answer.extensions
    assert [(model.name, model.version, model.ready, model.code) for model in answer.models] == [
        ("double", "1.0.0", True, ""),
        ("loading", None, False, "model_not_ready"),
    ]
    assert answer.parameters.device == "cam"


def test_a_model_that_serves_says_its_tensors_and_what_serves(device: Device, worker: FakeWorker) -> None:
    image = ImageInput(input="x", height=2, width=2, channels="L", mean=(0.5,))
    classes = Classification(output="y", labels=("cat", "dog"), top_k=3)
    optional = (TensorSpec(name="scale", datatype="FP32", shape=(), any_rank=True),)
    binding = binding_for(worker, image=image, classification=classes, optional_inputs=optional, max_payload=1000)
    device.router.assign("double").swap(worker, binding)
    answer = device.one(TOPICS.metadata("cam", "double"))
    assert {key: answer[key] for key in ("name", "versions", "platform", "inputs", "outputs")} == {
        "name": "double",
        "versions": ["1.0.0"],
        "platform": "fake_onnx",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "scale", "datatype": "FP32", "shape": [], "parameters": {"any_rank": True, "optional": True}},
        ],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
    }
    said = ModelMetadata.model_validate(answer).parameters
    assert (said.device, said.ready, said.variant, said.backend) == ("cam", True, "fake", "fake/threads")
    assert said.image == image
    assert said.classification is not None
    assert (said.classification.output, said.classification.labels, said.classification.top_k) == ("y", 2, 3)
    assert (said.max_batch, said.batching, said.max_request_bytes) == (8, "up to 8 together", 1000)
    assert said.queue_limit == 64
    assert said.pools == ("pool", "other")


def test_a_model_that_is_on_its_way_is_not_ready_and_says_why(device: Device) -> None:
    device.router.assign("double")
    topic = TOPICS.metadata("cam", "double")
    assert device.one(topic)["parameters"]["code"] == "model_not_ready"
    since = datetime(2026, 1, 1, tzinfo=timezone.utc)
    progress = DeploymentProgress(version="2", manifest="sha256:" + "0" * 64, phase=Phase.DOWNLOADING, since=since)
    report = ReportedModel(state=ServingState.PENDING, desired_version="2", deployment=progress)
    device.requests.reports = {"double": report}
    said = device.one(topic)
    assert (said["versions"], said["inputs"], said["outputs"]) == ([], [], [])
    assert (said["parameters"]["ready"], said["parameters"]["desired_version"]) == (False, "2")
    assert "downloading" in said["parameters"]["reason"]
    fault = Fault(code="digest_mismatch", message="the file is damaged")
    device.requests.reports = {"double": report.model_copy(update={"fault": fault})}
    said = device.one(topic)["parameters"]
    assert (said["code"], said["reason"]) == ("digest_mismatch", "the file is damaged")


def test_a_model_that_is_not_assigned_is_unknown_once_the_device_was_told_what_to_serve(device: Device) -> None:
    topic = TOPICS.metadata("cam", "nothing")
    assert device.one(topic)["code"] == "model_not_ready"
    device.router.assign("double")
    answer = device.one(topic, b'{"id":"r","parameters":{"correlation_id":"c"}}')
    assert (answer["code"], answer["id"], answer["parameters"]) == ("unknown_model", "r", {"correlation_id": "c"})
    assert device.counters.total("metadata_refused", "unknown_model") == 1


def test_the_payload_says_where_the_answer_goes_when_the_message_does_not(device: Device) -> None:
    payload = b'{"parameters":{"response_topic":"replies/old","correlation_id":"7"}}'
    device.ask(SERVER, payload, reply_to=b"")
    device.turn()
    (answer,) = device.answers()
    assert answer["parameters"]["correlation_id"] == "7"
    assert [message.topic for message in device.outbound.unacknowledged.values()] == [text(b"replies/old")]


@pytest.mark.parametrize(
    ("payload", "reply_to", "retain", "reason"),
    [
        (b"", b"", False, "no_response_topic"),
        (b"", text(b"p/devices/cam/desired"), False, "bad_response_topic"),
        (b'{"parameters":{"response_topic":"p/x"}}', b"", False, "bad_response_topic"),
        (b"", REPLY, True, "retained"),
    ],
)
def test_a_request_that_nobody_may_be_answered_is_acknowledged_and_counted(
    device: Device, payload: bytes, reply_to: bytes, retain: bool, reason: str
) -> None:
    device.ask(SERVER, payload, reply_to=reply_to, retain=retain)
    device.turn()
    assert device.wire.sent == [("ack", 1)]
    assert device.dropped(reason) == 1


@pytest.mark.parametrize(
    ("payload", "code"), [(b"{", "bad_payload"), (b"[]", "bad_payload"), (b" " * (MAX_REQUEST_BYTES + 1), "too_large")]
)
def test_a_payload_that_is_no_request_is_refused(device: Device, payload: bytes, code: str) -> None:
    assert device.one(SERVER, payload)["code"] == code


def test_a_request_is_acknowledged_after_its_answer(device: Device) -> None:
    device.ask(SERVER)
    assert device.wire.sent == []
    device.turn()
    assert [sent[0] for sent in device.wire.sent] == ["qos1", "ack"]
    device.ask(SERVER, qos=0)
    device.turn()
    assert device.wire.sent[-1][0] == "qos0"


def test_a_turn_answers_a_few_and_what_waits_has_a_bound(device: Device) -> None:
    for _ in range(MAX_WAITING + 3):
        device.ask(SERVER)
    assert [answer["code"] for answer in device.answers()] == ["overloaded"] * 3
    device.turn()
    assert len(device.answers()) == 3 + MAX_PER_TURN
    assert device.requests.busy
    while device.requests.busy:
        device.turn()
    assert len(device.answers()) == MAX_WAITING + 3
    assert device.counters.total("metadata_answered", "server") == MAX_WAITING


def test_a_pool_is_answered_after_a_pause_by_those_that_have_the_model(device: Device, worker: FakeWorker) -> None:
    device.router.assign("double").swap(worker, binding_for(worker))
    device.ask(TOPICS.pool_metadata("double"), b'{"id":"r"}')
    device.ask(TOPICS.pool_metadata("gone"))
    assert device.wire.sent == [("ack", 1), ("ack", 2)]
    device.turn(MAX_PAUSE_S * 0.4)
    assert device.answers() == []
    assert not device.requests.busy
    device.turn(MAX_PAUSE_S * 0.2)
    (answer,) = device.answers()
    assert (answer["id"], answer["parameters"]["pools"]) == ("r", ["pool", "other"])


def test_a_pool_does_not_answer_faults_and_has_a_bound(device: Device) -> None:
    device.router.assign("double")
    topic = TOPICS.pool_metadata("double")
    device.ask(topic, b"{")
    for _ in range(MAX_WAITING + 2):
        device.ask(topic)
    device.turn(MAX_PAUSE_S)
    while device.requests.busy:
        device.turn()
    assert len(device.answers()) == MAX_WAITING
    assert (device.dropped("bad_payload"), device.dropped("overloaded")) == (1, 2)


def test_topics_of_other_models_of_pools_and_of_requests_are_not_taken(device: Device) -> None:
    for topic in (TOPICS.pool_metadata("strange"), TOPICS.infer("cam", "double"), TOPICS.metadata("cam2", "double")):
        assert not device.requests.takes(topic)


def test_what_waits_is_given_up_with_the_connection_and_not_spooled(device: Device) -> None:
    device.router.assign("double")
    device.ask(SERVER)
    device.ask(TOPICS.pool_metadata("double"))
    device.outbound.closed()
    device.requests.closed()
    device.turn(MAX_PAUSE_S)
    assert device.answers() == []
    assert device.dropped("disconnected") == 2
    device.outbound.opened(BrokerLimits(receive_maximum=100))
    device.ask(SERVER)
    device.turn()
    device.outbound.closed()
    assert device.disk.kept == []
