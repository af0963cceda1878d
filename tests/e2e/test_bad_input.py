"""Bad input of every kind to a real device: an error with a stable code, nothing lost, the next request answered."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import paho.mqtt.client as mqtt
import pytest

from registry.client.devices import Client
from registry.contracts.codes import InferenceCode
from scripts.demo.processes import wait_until
from tests.e2e.conftest import DEVICE
from tests.e2e.test_killed import answers, worker_of
from tests.fakes.odd_server import OddServer
from tests.support.clients.asking import Answer, Asker
from tests.support.models import onnx_models
from tests.support.paths import LENET_FOLDER
from tests.support.programs.fleet import Fleet
from tests.support.programs.fleet_registry import eventually
from tests.support.programs.registry_process import manifest_of, put_blob

X = np.zeros((1, 1, 28, 28), np.float32)
MAX_PAYLOAD = 64 << 20
"""The agent's default."""
LONGEST = 268_435_455 - 2048
"""What MQTT can carry, less the head."""
TOPIC = f"modelfleet/v1/devices/{DEVICE}/infer/lenet"
RESULTS = f"modelfleet/v1/devices/{DEVICE}/results/lenet"
IN_A_LANE = 100
"""More than the lane of a worker holds ahead of what it runs (twice the largest batch)."""
ALLOWANCE = 16 << 20
"""What an agent's memory may grow for reasons of its own."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One device that serves LeNet and is impatient with models that do not load."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as running:
        running.start_broker()
        running.start_registry()
        running.start_agent(
            DEVICE,
            running.add_device(DEVICE),
            MODELFLEET_AGENT_HEALTH_INTERVAL_S="1",
            MODELFLEET_AGENT_WORKER__LOAD_TIMEOUT_S="6",
            MODELFLEET_AGENT_WORKER__RUN_TIMEOUT_S="5",
            MODELFLEET_AGENT_WORKER__MEMORY_BYTES=str(2 << 30),
        )
        running.registry("publish", str(LENET_FOLDER / "lenet.toml"))
        running.registry("deploy", "lenet@1.0.0", "--device", DEVICE, "--wait")
        yield running


@pytest.fixture(scope="module")
def administrator(fleet: Fleet) -> Iterator[httpx.Client]:
    token = (fleet.registry_data / "admin.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=fleet.url, headers=headers, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def asker(fleet: Fleet) -> Iterator[Asker]:
    """Asks LeNet, and sees what goes to its results topic. Afterwards the device must still answer."""
    one = Asker(fleet.broker_port, TOPIC, listen=(RESULTS, f"modelfleet/v1/devices/{DEVICE}/results/unknown"))
    yield one
    assert "outputs" in one.one(*_good()[:1], header_length=_good()[1]).head
    one.close()


def _header(shape: tuple[int, ...] = (1, 1, 28, 28), size: int = X.nbytes, **changes: Any) -> bytes:
    tensor = {"name": "x", "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": size}}
    more = {key: value for key, value in changes.items() if key not in ("name", "datatype")}
    tensor.update({key: value for key, value in changes.items() if key in ("name", "datatype")})
    return json.dumps({"inputs": [tensor], **more}).encode()


def _good() -> tuple[bytes, int]:
    return _header() + X.tobytes(), len(_header())


def _peak(fleet: Fleet) -> int:
    """The most memory that the agent's own process ever had, bytes."""
    text = Path(f"/proc/{fleet.processes[DEVICE].pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM")))


def _code(answer: Answer) -> str:
    """The stable code of an error result, which also says in words what is wrong."""
    assert len(answer.head["error"]) > 10
    return str(InferenceCode(answer.head["code"]))


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "body", "code"),
    [
        (_header(model_name="other"), X.tobytes(), "unknown_model"),
        (_header(model_version="9.9.9"), X.tobytes(), "unknown_version"),
        (_header(datatype="FP64"), X.tobytes(), "wrong_datatype"),
        (_header(datatype="NONSENSE"), X.tobytes(), "wrong_datatype"),
        (_header(name="y"), X.tobytes(), "unknown_input"),
        (_header(outputs=[{"name": "nosuch"}]), X.tobytes(), "unknown_output"),
        (_header((1, 1, 28, 29)), X.tobytes(), "wrong_shape"),
        (_header((1, 28, 28)), X.tobytes(), "wrong_shape"),
        (_header((-1, 1, 28, 28)), X.tobytes(), "wrong_shape"),
        (_header((1 << 40, 1, 28, 28)), X.tobytes(), "too_large"),
        (_header(), X.tobytes()[:-1], "size_mismatch"),
        (_header(), b"", "size_mismatch"),
        (_header(), X.tobytes() * 2, "size_mismatch"),
        (_header(size=1 << 62), X.tobytes(), "size_mismatch"),
        (_header(size=-1), X.tobytes(), "size_mismatch"),
        (_header()[:-1], X.tobytes(), "bad_payload"),
        (b"", b"", "bad_payload"),
    ],
)
def test_a_binary_request_that_lies_is_refused(asker: Asker, header: bytes, body: bytes, code: str) -> None:
    answer = asker.one(header + body, header_length=len(header), correlation=b"liar")
    assert (_code(answer), answer.correlation) == (code, b"liar")


@pytest.mark.parametrize("length", ["-1", "99999999", "1e3", "", "0x10", "9" * 400])
def test_a_header_length_that_lies_is_refused(asker: Asker, length: str) -> None:
    answer = asker.one(_good()[0], extra=(("inference-header-content-length", length),))
    assert _code(answer) == "bad_payload"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"[" * 1_000_000, "bad_payload"),
        (b'{"a":' * 500_000, "bad_payload"),
        (b'{"inputs":[{"name":"x","shape":[1,1,28,28],"datatype":"FP32","data":' + b"[" * 900_000, "bad_payload"),
        (_header()[:-2] + b',"data":[' + b"0," * 2_000_000 + b"0]}]}", "bad_payload"),
        (
            b'{"inputs":[{"name":"x","shape":[1,1,28,28],"datatype":"FP32","data":[' + b"0," * 2_000_000 + b"0]}]}",
            "size_mismatch",
        ),
        (b'{"inputs":[' + b'{"name":"x","shape":[1],"datatype":"FP32","data":[1]},' * 9999 + b"{}]}", "bad_payload"),
        (b'{"inputs":[{"name":"x","shape":[' + b"9" * 9999 + b'],"datatype":"FP32","data":[1]}]}', "bad_payload"),
        (b"\xff\xfe\x00", "bad_payload"),
        (b"OIPB", "bad_payload"),
        (b"OIPB\xff\xff\xff\xff{}", "bad_payload"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "bad_image"),
        (b"", "bad_payload"),
    ],
    ids=["nesting", "objects", "data", "both", "array", "inputs", "number", "utf8", "cut", "magic", "png", "empty"],
)
def test_json_bombs_and_garbage_are_refused(fleet: Fleet, asker: Asker, payload: bytes, code: str) -> None:
    before = _peak(fleet)
    assert _code(asker.one(payload)) == code
    assert _peak(fleet) < before + ALLOWANCE + 4 * len(payload)


@pytest.mark.parametrize("size", [MAX_PAYLOAD + 1, LONGEST], ids=["one over", "as long as MQTT allows"])
def test_a_payload_over_the_limit_is_refused_and_takes_no_memory(fleet: Fleet, asker: Asker, size: int) -> None:
    before = _peak(fleet)
    header = _header(size=size)
    answer = asker.one(header.ljust(size, b"\0"), header_length=len(header), seconds=200)
    assert _code(answer) == "too_large"
    assert _peak(fleet) < before + ALLOWANCE


def test_a_request_that_expires_while_it_waits_is_answered_so_and_not_run(fleet: Fleet, asker: Asker) -> None:
    payload, length = _good()
    worker = worker_of(fleet)
    os.kill(worker, signal.SIGSTOP)
    asker.ask(payload, header_length=length, correlation=b"under way")
    for number in range(IN_A_LANE):
        asker.ask(payload, header_length=length, correlation=b"%d" % number)
    asker.ask(payload, header_length=length, expiry=3, correlation=b"late")
    asker.client.publish("x", qos=1).wait_for_publish(60)
    deadline = time.monotonic() + 3.5
    wait_until(lambda: time.monotonic() > deadline, "the message to expire")
    os.kill(worker, signal.SIGCONT)
    late = next(answer for answer in asker.wait(IN_A_LANE + 2) if answer.correlation == b"late")
    assert _code(late) == "deadline_exceeded"


def test_endless_properties_are_passed_over(asker: Asker) -> None:
    payload, length = _good()
    endless = tuple((f"key-{number}", "v" * 60_000) for number in range(10))
    asker.ask(payload, header_length=length, extra=endless)
    assert "outputs" in asker.one(payload, header_length=length).head


def test_a_model_that_is_not_there_is_refused(asker: Asker) -> None:
    answer = asker.one(_good()[0], header_length=_good()[1], topic=TOPIC.replace("lenet", "nosuch"))
    assert _code(answer) == "unknown_model"


UNWRITABLE = [
    "$SYS/broker/version",
    f"modelfleet/v1/devices/{DEVICE}/desired",
    f"modelfleet/v1/devices/{DEVICE}/infer/lenet",
    "modelfleet/v1",
    "/".join("a" * 300),
    "x" * 1025,
]
"""Mosquitto itself refuses wildcards and NUL in a response topic property; from 3.1.1 clients they may come."""


@pytest.mark.parametrize("topic", UNWRITABLE, ids=lambda topic: topic[:40])
def test_a_malicious_response_topic_is_not_written_to(asker: Asker, topic: str) -> None:
    payload, length = _good()
    answer = asker.one(payload, header_length=length, reply_to=topic, correlation=b"who")
    assert (answer.topic, _code(answer), answer.correlation) == (RESULTS, "bad_response_topic", b"who")


@pytest.mark.parametrize("topic", [*UNWRITABLE, "a/+", "#", "a\0b", "a\x01b", "a\ufffeb"], ids=lambda topic: topic[:40])
def test_nor_is_one_that_a_3_1_1_client_names(fleet: Fleet, asker: Asker, topic: str) -> None:
    tensor = {"name": "x", "shape": X.shape, "datatype": "FP32", "data": X.ravel().tolist()}
    request = {"id": "r1", "parameters": {"response_topic": topic}, "inputs": [tensor]}
    old = Asker(fleet.broker_port, TOPIC, protocol=mqtt.MQTTv311)
    before = len(asker.answers)
    old.ask(json.dumps(request).encode())
    answer = asker.wait(before + 1)[before]
    assert answer.topic == RESULTS
    assert _code(answer) == ("bad_payload" if len(topic) > 1024 else "bad_response_topic")
    old.close()


# --- models -----------------------------------------------------------------------------------------------------------

HOSTILE = {
    "empty": (b"", "load_failed"),
    "garbage": (b"\x08\x08garbage" * 1000, "load_failed"),
    "truncated": ((LENET_FOLDER / "lenet.onnx").read_bytes()[:20_000], "load_failed"),
    "parent": (onnx_models.external("../../../journal.db"), "load_failed"),
    "absolute": (onnx_models.external("/etc/passwd"), "load_failed"),
    "missing": (onnx_models.external("weights.bin"), "load_failed"),
    "dimensions": (onnx_models.overflowing_dimensions(), "load_failed"),
    "sequence": (onnx_models.sequence_output(), "load_failed"),
    "memory": (onnx_models.memory_bomb(), "out_of_memory"),
}
"""What a publisher who does not use `registry publish` could put into the registry, and what becomes of it."""


@pytest.fixture(scope="module")
def _hostile_models(administrator: httpx.Client) -> None:
    """All of them are deployed at once, beside the model that serves."""
    for name, (content, _) in HOSTILE.items():
        put_blob(administrator, content)
        manifest = manifest_of(name, "1", content)
        administrator.put(f"/v1/models/{name}/versions/1", json=manifest).raise_for_status()
        deployment = {"version": "1", "force": True}
        administrator.put(f"/v1/devices/{DEVICE}/deployments/{name}", json=deployment).raise_for_status()


@pytest.mark.usefixtures("_hostile_models")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_fails_alone_and_says_why(
    administrator: httpx.Client, asker: Asker, fleet: Fleet, name: str
) -> None:
    def faulty() -> Any:
        reported = administrator.get(f"/v1/devices/{DEVICE}").json()["reported"]["models"]
        return reported.get(name, {}).get("fault")

    fault = eventually(faulty)
    assert (fault["code"], len(fault["message"]) > 10) == (HOSTILE[name][1], True)
    events = administrator.get(f"/v1/devices/{DEVICE}/events", params={"limit": 500}).json()["items"]
    assert any(event.get("model") == name and event.get("code") == HOSTILE[name][1] for event in events)
    refusal = asker.one(_good()[0], header_length=_good()[1], topic=TOPIC.replace("lenet", name))
    assert _code(refusal) == "model_not_ready"
    administrator.delete(f"/v1/devices/{DEVICE}/deployments/{name}").raise_for_status()


def test_a_model_whose_runs_have_no_end_is_served_untried_until_a_request_shows_it(
    administrator: httpx.Client, asker: Asker
) -> None:
    put_blob(administrator, onnx_models.endless_loop())
    manifest = manifest_of("endless", "1", onnx_models.endless_loop())
    administrator.put("/v1/models/endless/versions/1", json=manifest).raise_for_status()
    path = f"/v1/devices/{DEVICE}/deployments/endless"
    administrator.put(path, json={"version": "1", "force": True}).raise_for_status()

    def serving() -> Any:
        reported = administrator.get(f"/v1/devices/{DEVICE}").json()["reported"]["models"].get("endless", {})
        return reported if reported.get("state") == "serving" else None

    assert "served unmeasured: a trial run took over" in eventually(serving)["batching"]
    request = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}
    assert _code(asker.one(json.dumps(request).encode(), topic=TOPIC.replace("lenet", "endless"))) == "run_timeout"
    administrator.delete(path).raise_for_status()


@pytest.mark.parametrize("path", ["../model.onnx", "/etc/passwd", "a/../../b", ".hidden", "a\0b", "a\\b"])
def test_a_manifest_cannot_name_a_file_outside_its_artifact(administrator: httpx.Client, path: str) -> None:
    content = onnx_models.linear()
    put_blob(administrator, content)
    manifest = manifest_of("escape", "1", content)
    manifest["variants"][0]["files"][0]["path"] = manifest["variants"][0]["entry"] = path
    answer = administrator.put("/v1/models/escape/versions/1", json=manifest)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to"])
def test_external_data_that_is_a_link_is_not_published(fleet: Fleet, tmp_path: Path, how: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"0123456789ab")
    folder = tmp_path / "model"
    onnx_models.write(folder, onnx_models.external("weights.bin"))
    getattr(folder / "weights.bin", how)(secret)
    with pytest.raises(RuntimeError, match="link"):
        fleet.registry("publish", "links", str(folder / "model.onnx"), "--version", "1", "--target", "cpu")


def test_a_request_that_eats_all_memory_or_time_costs_itself(administrator: httpx.Client, asker: Asker) -> None:
    for name, content in (("bomb", onnx_models.bomb_on_demand()), ("loop", onnx_models.loop_on_demand())):
        put_blob(administrator, content)
        administrator.put(f"/v1/models/{name}/versions/1", json=manifest_of(name, "1", content)).raise_for_status()
        administrator.put(f"/v1/devices/{DEVICE}/deployments/{name}", json={"version": "1"}).raise_for_status()

    def serve() -> bool:
        models = administrator.get(f"/v1/devices/{DEVICE}").json()["reported"]["models"]
        return all(models.get(name, {}).get("state") == "serving" for name in ("bomb", "loop"))

    wait_until(serve, "both to serve")
    bomb = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [1 << 40]}]}
    answer = asker.one(json.dumps(bomb).encode(), topic=TOPIC.replace("lenet", "bomb"))
    assert _code(answer) in {"out_of_memory", "result_too_large", "worker_crashed"}
    trips = {"name": "trips", "shape": [], "datatype": "INT64", "data": [1 << 60]}
    loop = {"inputs": [trips, {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}
    answer = asker.one(json.dumps(loop).encode(), topic=TOPIC.replace("lenet", "loop"))
    assert _code(answer) == "run_timeout"
    for name in ("bomb", "loop"):
        administrator.delete(f"/v1/devices/{DEVICE}/deployments/{name}").raise_for_status()


# --- the others -------------------------------------------------------------------------------------------------------


def test_what_was_refused_is_counted_by_code_in_the_devices_health(administrator: httpx.Client, asker: Asker) -> None:
    asker.one(b"{}", correlation=b"counted")

    def counted() -> bool:
        health = administrator.get(f"/v1/devices/{DEVICE}").json()["health"]
        return bool(health and health["models"].get("lenet", {}).get("errors", {}).get("bad_payload"))

    wait_until(counted, "the count of refusals")


def test_a_broker_that_goes_away_is_come_back_to(fleet: Fleet) -> None:
    fleet.processes["broker"].kill()
    fleet.start_broker()
    with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as client:
        wait_until(lambda: answers(client), "an answer")


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"generation": "many"}', b"\0" * 3000],
    ids=["cut", "list", "words", "zeros"],
)
def test_a_registry_that_answers_garbage_leaves_the_agent_serving(fleet: Fleet, body: bytes) -> None:
    fleet.processes[DEVICE].stop()
    with OddServer(200, body) as odd:
        fleet.start_agent(DEVICE, "mf_token", ready=lambda: True, MODELFLEET_AGENT_REGISTRY__URL=odd.url)
        with Client(f"mqtt://127.0.0.1:{fleet.broker_port}") as client:
            wait_until(lambda: odd.seen, "the agent to ask the registry")
            wait_until(lambda: answers(client), "an answer")
        assert fleet.processes[DEVICE].running
