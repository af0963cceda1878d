"""The main job, from the outside: publish, deploy, ask over MQTT, see what happened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from PIL import Image

from registry.client.devices import Client, DeviceError
from registry.contracts.topics import Topics
from scripts.demo.paho_session import end_session
from scripts.demo.processes import wait_until
from tests.e2e.conftest import DEVICE
from tests.support.clients import oip
from tests.support.clients.asking import Asker
from tests.support.clients.serving import until
from tests.support.contract import Contract, Recorder
from tests.support.paths import LENET_FOLDER
from tests.support.programs.fleet import Fleet

DIGITS = sorted((LENET_FOLDER / "digits").glob("*.png"))


@pytest.fixture(scope="module")
def recorder(fleet: Fleet) -> Iterator[Recorder]:
    """What was published since before the first deployment, and what is retained."""
    recording = Recorder(fleet.broker_port, end_session)
    yield recording
    recording.close()


@pytest.fixture(scope="module", autouse=True)
def _lenet_serves(fleet: Fleet, recorder: Recorder) -> None:
    fleet.registry("publish", str(LENET_FOLDER / "lenet.toml"))
    fleet.registry("deploy", "lenet@1.0.0", "--device", DEVICE, "--wait")


def test_real_digits_are_read_from_png_files(client: Client) -> None:
    labels = [client.infer(DEVICE, "lenet", picture=file.read_bytes()).label for file in DIGITS]
    assert [str(label) for label in labels] == [file.stem.split("-")[1] for file in DIGITS]


def test_a_tensor_gives_the_same_answer_as_the_picture(client: Client) -> None:
    pixels = np.asarray(Image.open(DIGITS[0]).convert("L"), np.float32).reshape(1, 1, 28, 28) / 255
    answer = client.infer(DEVICE, "lenet", {"x": pixels})
    assert answer["y"].argmax() == int(DIGITS[0].stem.split("-")[1])
    assert answer.model_name == "lenet"
    assert answer.model_version == "1.0.0"
    assert answer.device == DEVICE


def test_a_batch_from_one_client_is_answered_as_a_batch(client: Client) -> None:
    answer = client.infer(DEVICE, "lenet", {"x": np.zeros((7, 1, 28, 28), np.float32)})
    assert answer["y"].shape == (7, 10)


def test_an_unknown_model_is_refused_with_a_code_and_the_next_request_is_answered(client: Client) -> None:
    with pytest.raises(DeviceError) as refused:
        client.infer(DEVICE, "nosuch", picture=DIGITS[0])
    assert refused.value.code == "unknown_model"
    assert client.infer(DEVICE, "lenet", picture=DIGITS[0].read_bytes()).label


@pytest.mark.parametrize("shape", [(1, 1, 28, 27), (1, 28, 28), (0, 1, 28)])
def test_a_wrong_shape_is_refused_with_a_code(client: Client, shape: tuple[int, ...]) -> None:
    with pytest.raises(DeviceError) as refused:
        client.infer(DEVICE, "lenet", {"x": np.zeros(shape, np.float32)})
    assert refused.value.code == "wrong_shape"


def test_a_picture_that_is_none_is_refused_with_a_code(client: Client) -> None:
    with pytest.raises(DeviceError) as refused:
        client.infer(DEVICE, "lenet", picture=b"\x89PNG\r\n\x1a\n" + b"garbage" * 100)
    assert refused.value.code == "bad_image"


def test_the_registry_sees_what_serves_and_how_well(fleet: Fleet, client: Client) -> None:
    client.infer(DEVICE, "lenet", picture=DIGITS[0].read_bytes())
    shown = fleet.registry("devices", "show", DEVICE)
    assert shown["reported"]["models"]["lenet"]["state"] == "serving"
    assert shown["reported"]["models"]["lenet"]["version"] == "1.0.0"
    assert shown["facts"]["backends"][0]["name"] == "onnxruntime"

    def counted() -> bool:
        health = fleet.registry("devices", "show", DEVICE).get("health")
        return bool(health and health["models"].get("lenet", {}).get("requests"))

    wait_until(counted, "the device's health")


def test_results_are_kept_when_that_is_switched_on(fleet: Fleet, client: Client) -> None:
    fleet.registry("record", "lenet", "on")

    def kept() -> bool:
        client.infer(DEVICE, "lenet", picture=DIGITS[0].read_bytes())
        return bool(fleet.registry("results", "lenet"))

    wait_until(kept, "a recorded result")
    fleet.registry("record", "lenet", "off")


def test_a_person_asks_a_device_from_the_command_line(fleet: Fleet, tmp_path: Path) -> None:
    pixels = np.asarray(Image.open(DIGITS[0]).convert("L"), np.float32).reshape(1, 1, 28, 28) / 255
    np.savez(tmp_path / "x.npz", x=pixels)
    (tmp_path / "x.json").write_text(json.dumps({"x": pixels.tolist()}))
    digit = DIGITS[0].stem.split("-")[1]
    shown = fleet.registry("ask", DEVICE, "lenet@1.0.0", "--picture", str(DIGITS[0]))
    assert (shown["device"], shown["version"], shown["outputs"]["label"]["data"][0][0]) == (DEVICE, "1.0.0", digit)
    shown = fleet.registry("ask", "cameras", "lenet", "--pool", "--picture", str(DIGITS[0]))
    assert (shown["device"], shown["outputs"]["label"]["data"][0][0]) == (DEVICE, digit)
    for given in (("--npz", str(tmp_path / "x.npz")), ("--request", str(tmp_path / "x.json"))):
        tensor = fleet.registry("ask", DEVICE, "lenet", *given, "--output", "y")["outputs"]
        assert list(tensor) == ["y"]
        assert np.argmax(tensor["y"]["data"]) == int(digit)
    for arguments, exit_code in (
        ((DEVICE, "nosuch"), 3),
        ((DEVICE, "lenet@9.9.9"), 3),
        ((DEVICE, "lenet", "--broker", "mqtt://127.0.0.1:1"), 6),
    ):
        with pytest.raises(RuntimeError, match=f"exit code {exit_code}"):
            fleet.registry("ask", *arguments, "--picture", str(DIGITS[0]))


def test_a_person_measures_a_device_from_the_command_line(fleet: Fleet) -> None:
    found = fleet.registry("bench", DEVICE, "lenet", "--requests", "200", "--in-flight", "8")
    assert (found["requests"], found["answered"], found["errors"], found["in_flight"]) == (200, 200, {}, 8)
    assert found["rate"] > 0
    latency = found["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    found = fleet.registry("bench", "cameras", "lenet", "--pool", "--requests", "20", "--qos", "0")
    assert (found["device"], found["answered"]) == (DEVICE, 20)
    found = fleet.registry("bench", DEVICE, "lenet", "--seconds", "0.2", "--picture", str(DIGITS[0]))
    assert found["answered"] > 0


def test_a_plain_picture_of_3_1_1_gives_the_label_on_the_results_topic(fleet: Fleet) -> None:
    results = Topics().results(DEVICE, "lenet")
    camera = Asker(fleet.broker_port, Topics().infer(DEVICE, "lenet"), protocol=mqtt.MQTTv311, listen=(results,))
    try:
        answer = camera.one(DIGITS[0].read_bytes())
        assert (answer.topic, answer.head["outputs"][0]["data"][0]) == (results, DIGITS[0].stem.split("-")[1])
        assert camera.one(b"\x89PNG\r\n\x1a\n no picture").head["code"] == "bad_image"
    finally:
        camera.close()


def test_home_assistant_has_a_sensor_for_each_model_until_it_goes(fleet: Fleet) -> None:
    fleet.registry("publish", "seen", str(LENET_FOLDER / "lenet.onnx"), "--version", "1", "--target", "cpu")
    watcher = Asker(fleet.broker_port, "", listen=("homeassistant/sensor/#",))
    try:
        assert watcher.wait(1)[0].head["name"] == "lenet"
        fleet.registry("deploy", "seen@1", "--device", DEVICE, "--wait")
        found = watcher.wait(2)[1]
        assert (found.topic, found.head["name"]) == (f"homeassistant/sensor/{DEVICE}_seen/config", "seen")
        assert found.head["state_topic"] == Topics().results(DEVICE, "seen")
        fleet.registry("undeploy", "seen", "--device", DEVICE)
        gone = watcher.wait(3)[2]
        assert (gone.topic, gone.payload) == (found.topic, b"")
    finally:
        watcher.close()


def test_everything_that_was_published_is_what_the_contract_says(
    fleet: Fleet, client: Client, recorder: Recorder
) -> None:
    topics, x = Topics(), np.zeros((1, 1, 28, 28), np.float32)
    client.infer(DEVICE, "lenet", picture=DIGITS[0].read_bytes())
    client.infer(DEVICE, "lenet", {"x": x})
    asker = Asker(fleet.broker_port, topics.infer(DEVICE, "lenet"))
    old = {"response_topic": asker.reply_topic, "correlation_id": "c"}
    binary = {**old, "binary_data_output": True}
    answers = [
        asker.one(oip.encode_request([oip.Input("x", "FP32", x, binary=False)], request_id="json").payload),
        asker.one(oip.encode_request([oip.Input("x", "FP32", x)], parameters=binary, magic=True).payload, reply_to=""),
        asker.one(b"{}"),
        asker.one(b"", topic=topics.metadata(DEVICE)),
        asker.one(json.dumps({"parameters": old}).encode(), topic=topics.metadata(DEVICE, "lenet"), reply_to=""),
        asker.one(b"", topic=topics.metadata(DEVICE, "nosuch")),
    ]
    server, lenet, unknown = (answer.head for answer in answers[3:])
    asker.close()
    assert [(model["name"], model["ready"]) for model in server["models"]][:1] == [("lenet", True)]
    assert lenet["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 28, 28]}]
    said = lenet["parameters"]
    assert (said["image"]["height"], said["classification"]["labels"], said["variant"]) == (28, 10, "onnx-cpu")
    assert unknown["code"] == "unknown_model"

    wanted = {"presence", "desired", "reported", "event", "health", "metadataRequest", "serverMetadata"}
    wanted |= {"modelMetadata", "requestJson", "requestBinary", "requestSelfContained", "resultJson", "resultBinary"}
    wanted |= {"resultSelfContained", "error", "requestPng"}

    def all_seen() -> Contract | None:
        contract = Contract()
        for sent in list(recorder.sent):
            if sent.payload.startswith(b"fence ") or sent.topic.startswith("homeassistant/"):
                continue  # what the client library says to itself; another product's documents
            contract.judge(sent)
        return contract if contract.faults or contract.seen >= wanted else None

    contract = until(all_seen)
    assert contract.faults == [], "\n".join(contract.faults)


def test_publishing_the_same_again_changes_nothing_and_other_content_is_refused(fleet: Fleet) -> None:
    assert not fleet.registry("publish", str(LENET_FOLDER / "lenet.toml"))["created"]
    with pytest.raises(RuntimeError, match="exit code 4"):
        fleet.registry("publish", "lenet", str(LENET_FOLDER / "lenet.onnx"), "--version", "1.0.0", "--target", "gpu")


def test_a_device_that_should_no_longer_serve_a_model_refuses_it(fleet: Fleet, client: Client) -> None:
    fleet.registry("publish", "other", str(LENET_FOLDER / "lenet.onnx"), "--version", "1", "--target", "cpu")
    fleet.registry("deploy", "other@1", "--device", DEVICE, "--wait")
    x = np.zeros((1, 1, 28, 28), np.float32)
    assert client.infer(DEVICE, "other", {"x": x})["y"].shape == (1, 10)
    fleet.registry("undeploy", "other", "--device", DEVICE)

    def refused() -> bool:
        try:
            client.infer(DEVICE, "other", {"x": x})
        except DeviceError as error:
            return error.code == "unknown_model"
        return False

    wait_until(refused, "other to be gone")


def test_what_a_model_answered_just_before_it_was_undeployed_is_counted(fleet: Fleet, client: Client) -> None:
    fleet.registry("publish", "brief", str(LENET_FOLDER / "lenet.onnx"), "--version", "1", "--target", "cpu")
    fleet.registry("deploy", "brief@1", "--device", DEVICE, "--wait")
    for _ in range(3):
        client.infer(DEVICE, "brief", {"x": np.zeros((1, 1, 28, 28), np.float32)})
    fleet.registry("undeploy", "brief", "--device", DEVICE)

    def counted() -> bool:
        return [row["requests"] for row in fleet.registry("counts") if row["model"] == "brief"] == [3]

    wait_until(counted, "all three requests in the registry's counts")
