"""The data path against a real broker: requests of every kind get the right answer, whichever way they come in."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from PIL import Image

from agent.core.events import ControlMessage, WorkerDied
from registry.cli.inference.bench import queue_limit
from registry.cli.inference.broker import require_models
from registry.cli.output import CliError
from registry.client.devices import Client
from registry.contracts.catalogue.manifest import ImageInput
from tests.fakes.workers import FakeWorker
from tests.support.clients.asking import Asker, binary_request
from tests.support.clients.serving import Serving, until
from tests.support.network.broker import Mosquitto

X = np.array([1, 2, 3, 4], np.float32)


def tensor_json(size: int) -> dict[str, object]:
    data = np.arange(size, dtype=np.float32).tolist()
    return {"name": "x", "shape": [size // 4, 4], "datatype": "FP32", "data": data}


@pytest.fixture(params=["fast", "public"])
def serving(request: pytest.FixtureRequest, broker: Mosquitto, tmp_path: Path) -> Iterator[Serving]:
    device = Serving(broker.port, tmp_path, fast=request.param == "fast")
    device.serve(FakeWorker())
    device.start()
    assert device.plane.snapshot().data_path == request.param
    yield device
    device.stop()


@pytest.fixture
def asker(serving: Serving, broker: Mosquitto) -> Iterator[Asker]:
    client = Asker(broker.port, serving.infer(), listen=(serving.results(),))
    yield client
    client.close()


@pytest.mark.parametrize("qos", [0, 1])
def test_a_binary_request_is_answered_with_its_correlation_data(asker: Asker, qos: int) -> None:
    payload, length = binary_request(X)
    answer = asker.one(payload, qos=qos, header_length=length, correlation=b"\x00\xffc")
    assert (answer.qos, answer.correlation, answer.content_type) == (qos, b"\x00\xffc", "application/octet-stream")
    assert answer.head["model_name"] == "double"
    np.testing.assert_array_equal(answer.tensor(), X * 2)


def test_many_requests_in_flight_each_get_their_own_answer(asker: Asker, serving: Serving) -> None:
    for number in range(600):
        payload, length = binary_request(X + number)
        asker.ask(payload, qos=number % 2, header_length=length, correlation=b"%d" % number)
        if number % 50 == 49:
            asker.wait(number + 1)
    for answer in asker.wait(600):
        np.testing.assert_array_equal(answer.tensor(), (X + int(answer.correlation)) * 2)
    snapshot = serving.plane.snapshot().models["double"]
    assert (snapshot.requests, snapshot.errors, snapshot.queue_depth) == (600, {}, 0)
    assert sum(size * count for size, count in snapshot.batches.items()) == 600


def test_json_is_answered_as_json(asker: Asker) -> None:
    body = {"id": "j1", "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    answer = asker.one(json.dumps(body).encode())
    assert answer.head["id"] == "j1"
    assert answer.head["outputs"][0]["data"] == [2, 4, 6, 8]


def test_several_items_go_through_an_arena(asker: Asker) -> None:
    x = np.arange(4000, dtype=np.float32)
    payload, length = binary_request(x, rows=1000)
    answer = asker.one(payload, header_length=length)
    assert answer.head["outputs"][0]["shape"] == [1000, 4]
    np.testing.assert_array_equal(answer.tensor(), x * 2)


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("id_", ["", "long-1"])
def test_a_long_payload_is_read_into_place(asker: Asker, qos: int, id_: str) -> None:
    x = np.arange(200_000, dtype=np.float32)
    payload, length = binary_request(x, rows=50_000, id_=id_)
    answer = asker.one(payload, qos=qos, header_length=length)
    np.testing.assert_array_equal(answer.tensor(), x * 2)


def test_a_long_json_request_is_decoded_beside_the_loop(asker: Asker) -> None:
    answer = asker.one(json.dumps({"inputs": [tensor_json(40_000)]}).encode())
    assert answer.head["outputs"][0]["data"][-1] == 2 * 39_999


def test_pictures_are_decoded_beside_the_loop(asker: Asker, serving: Serving) -> None:
    serving.serve(FakeWorker((-1, 1, 2, 2)), image=ImageInput(input="x", height=2, width=2, channels="L", scale=1.0))
    for number in range(10):
        png = io.BytesIO()
        Image.fromarray(np.array([[number, 1], [2, 3]], np.uint8)).save(png, "PNG")
        asker.ask(png.getvalue(), content_type="image/png", correlation=b"%d" % number, qos=number % 2)
    for answer in asker.wait(10):
        assert answer.head["outputs"][0]["data"] == [2 * int(answer.correlation), 2, 4, 6]
    assert asker.one(b"\x89PNG\r\n\x1a\n cut", content_type="image/png").head["code"] == "bad_image"


def test_each_request_is_in_the_histograms_of_latency_and_wait_and_a_decoded_one_in_that_of_decoding(
    asker: Asker, serving: Serving
) -> None:
    payload, length = binary_request(X)
    for number in range(5):
        asker.ask(payload, header_length=length, correlation=b"%d" % number)
    asker.wait(5)
    asker.one(json.dumps({"inputs": [tensor_json(40_000)]}).encode())
    until(lambda: sum(serving.plane.snapshot().models["double"].latency.buckets().counts) == 6)
    found = serving.plane.snapshot().models["double"]
    assert [sum(found.queue_wait.counts), sum(found.decode.counts)] == [6, 1]
    assert sum(found.run.buckets().counts) == sum(found.batches.values())
    assert found.latency.buckets().sum_s >= found.queue_wait.sum_s >= found.decode.sum_s > 0


def test_a_3_1_1_client_asks_in_the_payload(serving: Serving, broker: Mosquitto) -> None:
    old = Asker(broker.port, serving.infer(), protocol=mqtt.MQTTv311)
    parameters = {"response_topic": old.reply_topic, "correlation_id": "c-7", "binary_data_output": True}
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    header = json.dumps({"parameters": parameters, "inputs": [tensor]}).encode()
    magic = b"OIPB" + len(header).to_bytes(4, "little")
    answer = old.one(magic + header + X.tobytes())
    assert answer.payload[:4] == b"OIPB"
    length = int.from_bytes(answer.payload[4:8], "little")
    head = json.loads(answer.payload[8 : 8 + length])
    assert head["parameters"]["correlation_id"] == "c-7"
    np.testing.assert_array_equal(np.frombuffer(answer.payload[8 + length :], np.float32), X * 2)
    old.close()


@pytest.mark.parametrize("magic", [False, True])
@pytest.mark.parametrize(("model", "code"), [("", "wrong_shape"), ("nosuch", "unknown_model")])
def test_a_3_1_1_client_gets_its_refusals_too(
    serving: Serving, broker: Mosquitto, magic: bool, model: str, code: str
) -> None:
    old = Asker(broker.port, serving.infer(), protocol=mqtt.MQTTv311)
    parameters = {"response_topic": old.reply_topic, "correlation_id": "c-8"}
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    payload = json.dumps({"id": "r8", "parameters": parameters, "inputs": [tensor]}).encode()
    if magic:
        payload = b"OIPB" + len(payload).to_bytes(4, "little") + payload
    topic = serving.infer().rpartition("/")[0] + f"/{model}" if model else ""
    head = old.one(payload, topic=topic).head
    assert (head["code"], head["id"], head["parameters"]["correlation_id"]) == (code, "r8", "c-8")
    old.close()


def test_an_agent_on_3_1_1_serves_too(broker: Mosquitto, tmp_path: Path) -> None:
    device = Serving(broker.port, tmp_path, protocol=4)
    device.serve(FakeWorker())
    device.start()
    client = Asker(broker.port, device.infer())
    body = {
        "parameters": {"response_topic": client.reply_topic},
        "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}],
    }
    assert client.one(json.dumps(body).encode()).head["outputs"][0]["data"] == [2, 4, 6, 8]
    client.close()
    device.stop()


def test_without_a_response_topic_the_result_goes_to_the_results_topic(asker: Asker, serving: Serving) -> None:
    payload, length = binary_request(X)
    answer = asker.one(payload, qos=0, header_length=length, reply_to="", correlation=b"r")
    assert (answer.topic, answer.qos, answer.correlation) == (serving.results(), 1, b"r")
    np.testing.assert_array_equal(answer.tensor(), X * 2)


def test_recorded_results_are_published_twice(asker: Asker, serving: Serving) -> None:
    serving.serve(FakeWorker(), record_results=True)
    payload, length = binary_request(X)
    asker.ask(payload, header_length=length)
    assert sorted(answer.topic for answer in asker.wait(2)) == sorted((asker.reply_topic, serving.results()))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"payload": b"{"}, "bad_payload"),
        ({"payload": b"[" * 100_000}, "bad_payload"),
        ({"header_length": 1 << 20}, "bad_payload"),
        ({"header_length": 0}, "bad_payload"),
        ({"header_length": 3}, "bad_payload"),
        ({"extra": (("inference-header-content-length", "9_9"),)}, "bad_payload"),
        ({"cut": 1}, "size_mismatch"),
        ({"content_type": "text/html", "payload": b"<p>"}, "unsupported_content_type"),
        ({"content_type": "image/png", "payload": b"\x89PNG"}, "no_image_input"),
        ({"x": np.array([-1, 0, 0, 0], np.float32)}, "run_failed"),
    ],
    ids=str,
)
def test_what_cannot_be_run_gets_an_error_with_a_code(asker: Asker, change: dict[str, object], code: str) -> None:
    change = dict(change)
    payload, length = binary_request(change.pop("x", X))  # type: ignore[arg-type]
    payload = payload[: len(payload) - int(change.pop("cut", 0))]  # type: ignore[call-overload]
    how: dict[str, object] = {"header_length": length, "correlation": b"e"}
    if "payload" in change or "extra" in change:
        how.pop("header_length")
    how.update(change)
    answer = asker.one(how.pop("payload", payload), **how)  # type: ignore[arg-type]
    assert (answer.head["code"], answer.correlation) == (code, b"e")
    payload, length = binary_request(X)
    np.testing.assert_array_equal(asker.one(payload, header_length=length).tensor(), X * 2)


def test_a_bad_item_does_not_fail_its_neighbours(asker: Asker, serving: Serving) -> None:
    worker = serving.workers[0]
    worker.gate.clear()
    for number in range(6):
        payload, length = binary_request(np.array([-1 if number == 3 else number, 0, 0, 0], np.float32))
        asker.ask(payload, header_length=length, correlation=b"%d" % number)
    until(lambda: serving.plane.snapshot().models["double"].queue_depth == 6)
    worker.gate.set()
    codes = {answer.correlation: answer.head.get("code") for answer in asker.wait(6)}
    assert codes == {b"%d" % number: "run_failed" if number == 3 else None for number in range(6)}


@pytest.mark.parametrize("topic", ["$SYS/x", "a/+", "{prefix}/devices/d/desired", "a/#"])
def test_a_response_topic_that_is_not_allowed_is_answered_on_the_results_topic(
    asker: Asker, serving: Serving, topic: str
) -> None:
    body = {
        "parameters": {"response_topic": topic.format(prefix=serving.topics.prefix)},
        "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}],
    }
    answer = asker.one(json.dumps(body).encode(), reply_to="")
    assert (answer.topic, answer.head["code"]) == (serving.results(), "bad_response_topic")
    assert serving.plane.snapshot().models["double"].errors == {"bad_response_topic": 1}


def test_a_model_that_is_not_there_and_one_that_is_not_ready(asker: Asker, serving: Serving) -> None:
    refused = asker.one(b'{"id":"r1"}', topic=serving.infer("nobody")).head
    assert (refused["code"], refused["model_name"], refused["id"]) == ("unknown_model", "nobody", "r1")
    for size in (4, 1 << 18):  # a short one, and one that is refused on its head
        payload, length = binary_request(np.zeros(size, np.float32), id_="r2")
        refused = asker.one(payload, topic=serving.infer("nobody"), header_length=length).head
        assert (refused["code"], refused["model_name"], refused["id"]) == ("unknown_model", "nobody", "r2")
    serving.plane.swap("soon", None, None).result(5)
    assert asker.one(b"{}", topic=serving.infer("soon")).head["code"] == "model_not_ready"
    payload, length = binary_request(X)
    np.testing.assert_array_equal(asker.one(payload, header_length=length).tensor(), X * 2)
    serving.plane.withdraw("soon").result(5)
    assert asker.one(b"{}", topic=serving.infer("soon")).head["code"] == "unknown_model"


def test_a_client_learns_how_many_requests_a_device_holds(serving: Serving, broker: Mosquitto) -> None:
    with Client(f"mqtt://127.0.0.1:{broker.port}", prefix=serving.topics.prefix) as client:
        first = client.infer(serving.name, "double", {"x": X[None]})
        assert queue_limit(client, first, 5.0) == serving.plane.snapshot().models["double"].queue_limit


def test_before_anything_was_assigned_a_request_may_be_tried_again(broker: Mosquitto, tmp_path: Path) -> None:
    device = Serving(broker.port, tmp_path, fast=True)
    device.start()
    client = Asker(broker.port, device.infer("lenet"), listen=(device.results(),))
    try:
        assert client.one(b"{}").head["code"] == "model_not_ready"
        with (
            Client(f"mqtt://127.0.0.1:{broker.port}", prefix=device.topics.prefix) as asking,
            pytest.raises(CliError, match=f"Nothing is assigned to {device.name}") as refused,
        ):
            require_models(asking, device.name, 10.0)
        assert f"registry deploy MODEL@VERSION --device {device.name}" in refused.value.hint
    finally:
        client.close()
        device.stop()


def test_overload_is_refused_at_once(asker: Asker, serving: Serving) -> None:
    worker = FakeWorker(slots=4)
    worker.gate.clear()
    serving.serve(worker)
    payload, length = binary_request(X)
    for number in range(7):
        asker.ask(payload, header_length=length, correlation=b"%d" % number)
    assert [answer.head["code"] for answer in asker.wait(3)] == ["overloaded"] * 3
    worker.gate.set()
    assert sum("code" not in answer.head for answer in asker.wait(7)) == 4


def test_a_request_whose_deadline_passes_before_its_turn_is_not_run(asker: Asker, serving: Serving) -> None:
    worker = FakeWorker(max_batch=1)
    worker.gate.clear()
    serving.serve(worker)
    payload, length = binary_request(X)
    for number in range(3):
        asker.ask(payload, header_length=length, correlation=b"%d" % number, expiry=None if number < 2 else 1)
    until(lambda: serving.plane.snapshot().models["double"].queue_depth == 3)
    late = time.monotonic() + 1.1
    until(lambda: time.monotonic() > late)
    worker.gate.set()
    codes = {answer.correlation: answer.head.get("code") for answer in asker.wait(3)}
    assert codes == {b"0": None, b"1": None, b"2": "deadline_exceeded"}
    assert sum(worker.batches) == 2
    assert serving.plane.snapshot().models["double"].expired == 1


def test_a_payload_over_the_limit_is_refused_and_the_next_one_served(asker: Asker, serving: Serving) -> None:
    serving.serve(FakeWorker(), max_payload=100_000)
    payload, length = binary_request(np.zeros(2_000_000, np.float32), rows=500_000)
    answer = asker.one(payload, header_length=length, correlation=b"big")
    assert (answer.head["code"], answer.correlation) == ("too_large", b"big")
    payload, length = binary_request(X)
    np.testing.assert_array_equal(asker.one(payload, header_length=length).tensor(), X * 2)
    assert serving.plane.snapshot().total("mqtt_connections") == 1


def test_a_request_that_comes_twice_runs_once(asker: Asker, serving: Serving) -> None:
    payload, length = binary_request(X, id_="same")
    first = asker.one(payload, header_length=length, correlation=b"1")
    second = asker.one(payload, header_length=length, correlation=b"2")
    assert (first.payload, first.correlation, second.correlation) == (second.payload, b"1", b"2")
    assert sum(serving.workers[0].batches) == 1
    other, length = binary_request(X + 1, id_="same")
    np.testing.assert_array_equal(asker.one(other, header_length=length).tensor(), (X + 1) * 2)


def test_the_same_request_to_two_models_is_two_requests(asker: Asker, serving: Serving) -> None:
    serving.serve(FakeWorker(), model="other")
    payload, length = binary_request(X, id_="same")
    asker.one(payload, header_length=length)
    answer = asker.one(payload, header_length=length, topic=serving.infer("other"))
    assert answer.head["model_name"] == "other"
    assert [sum(worker.batches) for worker in serving.workers] == [1, 1]


def test_a_swap_loses_no_request_and_gives_the_old_worker_back(asker: Asker, serving: Serving) -> None:
    old, new = serving.workers[0], FakeWorker()
    old.gate.clear()
    payload, length = binary_request(X)
    for number in range(20):
        asker.ask(payload, header_length=length, correlation=b"%d" % number)
    until(lambda: serving.plane.snapshot().models["double"].queue_depth == 20)
    drained = serving.serve(new, version="2.0.0")
    asker.ask(payload, header_length=length, correlation=b"new")
    assert asker.wait(1)[0].head["model_version"] == "2.0.0"
    assert not drained.done()
    old.gate.set()
    assert drained.result(10) is old
    versions = [answer.head["model_version"] for answer in asker.wait(21)]
    assert versions.count("1.0.0") == 20


def test_a_worker_that_dies_fails_its_requests_and_is_reported(asker: Asker, serving: Serving) -> None:
    worker = serving.workers[0]
    worker.gate.clear()
    payload, length = binary_request(X)
    for _ in range(3):
        asker.ask(payload, header_length=length)
    until(lambda: serving.plane.snapshot().models["double"].queue_depth == 3)
    worker.die()
    assert [answer.head["code"] for answer in asker.wait(3)] == ["worker_crashed"] * 3
    assert serving.event(WorkerDied).worker is worker
    assert asker.one(payload, header_length=length).head["code"] == "model_not_ready"
    serving.serve(FakeWorker())
    np.testing.assert_array_equal(asker.one(payload, header_length=length).tensor(), X * 2)


def test_a_run_that_hangs_is_ended(asker: Asker, serving: Serving) -> None:
    worker = FakeWorker(run_timeout_s=0.2)
    worker.gate.clear()
    serving.serve(worker)
    payload, length = binary_request(X)
    assert asker.one(payload, header_length=length).head["code"] == "run_timeout"
    assert worker.killed.is_set()
    assert serving.event(WorkerDied).worker is worker


def test_desired_state_reaches_the_control_thread(asker: Asker, serving: Serving) -> None:
    topic = serving.topics.device(serving.name, "desired")
    asker.ask(b'{"generation":1}', topic=topic, reply_to="")
    assert serving.event(ControlMessage) == ControlMessage(topic, b'{"generation":1}')
    asker.ask(b"x" * 2_000_000, topic=topic, reply_to="")
    asker.ask(b'{"generation":2}', topic=topic, reply_to="")
    assert serving.event(ControlMessage).payload == b'{"generation":2}'


def test_several_runners_share_the_work(asker: Asker, serving: Serving) -> None:
    worker = FakeWorker(lanes=3, max_batch=1)
    serving.serve(worker)
    payload, length = binary_request(X)
    for _ in range(40):
        asker.ask(payload, header_length=length)
    for answer in asker.wait(40):
        np.testing.assert_array_equal(answer.tensor(), X * 2)
