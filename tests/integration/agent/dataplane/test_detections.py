"""Detections are made beside the data path: what goes wrong with one costs no other request, and no slot."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from registry.contracts.catalogue.detection import Detection
from registry.contracts.catalogue.manifest import ImageInput
from tests.fakes.workers import FakeWorker
from tests.support.clients.asking import Answer, Asker
from tests.support.clients.oip import Input, encode_request
from tests.support.clients.serving import Serving, until
from tests.support.network.broker import Mosquitto

CANDIDATES = 4
ROWS = np.zeros((1, 1, CANDIDATES, 6), np.float32)
ROWS[0, 0, :2] = [[1, 0, 3, 2, 0.5, 1], [2, 1, 5, 4, 0.75, 0]]
BOXES = [2.0, 1.0, 5.0, 4.0, 1.0, 0.0, 3.0, 2.0]


def detects(serving: Serving, worker: FakeWorker | None = None, **more: Any) -> None:
    """Has a worker serve whose outputs, twice what came in, are candidates of (box, score, class)."""
    worker = worker or FakeWorker((-1, 1, CANDIDATES, 6), slots=4, arenas=2)
    said = {"boxes": {"output": "y"}, "scores": {"output": "y", "at": 4}, "classes": {"output": "y", "at": 5}}
    detection = Detection.model_validate({"format": "xyxy", "nms": "class", "labels": ["cat", "dog"], **said, **more})
    image = ImageInput(input="x", height=CANDIDATES, width=6, channels="L", scale=1.0)
    serving.serve(worker, image=image, detection=detection)


def request(rows: NDArray[np.float32] = ROWS, **parameters: Any) -> dict[str, Any]:
    """As `Asker.ask` takes it. The worker doubles what it gets."""
    made = encode_request([Input("x", "FP32", rows / 2)], parameters={"detections": True, **parameters})
    return {"payload": made.payload, "header_length": made.header_length}


def told(answer: Answer) -> dict[str, Any]:
    return {output["name"]: output["data"] for output in answer.head["outputs"]}


def is_answered(asker: Asker) -> bool:
    return told(asker.one(**request())) == {
        "boxes": BOXES, "scores": [0.75, 0.5], "classes": [0, 1], "labels": ["cat", "dog"]
    }  # fmt: skip


def finders() -> list[int]:
    """The processes of this one that work on pictures."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1])
            line = entry.joinpath("cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == os.getpid() and b"agent.pictures.child" in line:
            found.append(int(entry.name))
    return found


@pytest.fixture
def serving(broker: Mosquitto, tmp_path: Path) -> Iterator[Serving]:
    device = Serving(broker.port, tmp_path).start()
    yield device
    device.stop()


@pytest.fixture
def asker(serving: Serving, broker: Mosquitto) -> Iterator[Asker]:
    client = Asker(broker.port, serving.infer(), listen=(serving.results(),))
    yield client
    client.close()


@pytest.fixture
def stopped(asker: Asker, serving: Serving) -> Iterator[Callable[[int], None]]:
    """Sends a signal to the process that finds boxes, which has stopped."""
    detects(serving)
    assert is_answered(asker)
    (pid,) = finders()
    os.kill(pid, signal.SIGSTOP)
    yield lambda number: os.kill(pid, number)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def test_a_request_waits_for_its_boxes_and_no_other_request_does(
    asker: Asker, serving: Serving, stopped: Callable[[int], None]
) -> None:
    asker.ask(**request(), correlation=b"boxes")
    plain = encode_request([Input("x", "FP32", ROWS)])
    for number in range(10):
        answer = asker.one(plain.payload, header_length=plain.header_length, correlation=b"%d" % number)
        assert answer.correlation == b"%d" % number
    stopped(signal.SIGCONT)
    until(lambda: [answer for answer in asker.answers if answer.correlation == b"boxes"])
    assert told(asker.answers[-1])["boxes"] == BOXES


def test_a_worker_that_is_replaced_is_given_back_when_its_boxes_are_found(
    asker: Asker, serving: Serving, stopped: Callable[[int], None]
) -> None:
    asker.ask(**request(), correlation=b"boxes")
    until(lambda: sum(serving.workers[0].batches) == 2)
    old = serving.serve(FakeWorker((-1, 1, CANDIDATES, 6)))
    plain = encode_request([Input("x", "FP32", ROWS)])
    assert "outputs" in asker.one(plain.payload, header_length=plain.header_length).head
    assert not old.done()
    stopped(signal.SIGCONT)
    assert old.result(60) is serving.workers[0]
    assert told(asker.wait(3)[-1])["boxes"] == BOXES


def test_a_worker_that_dies_meanwhile_costs_one_answer_and_nothing_is_answered_twice(
    asker: Asker, serving: Serving, stopped: Callable[[int], None]
) -> None:
    asker.ask(**request(), correlation=b"boxes")
    until(lambda: sum(serving.workers[0].batches) == 2)
    serving.workers[0].die()
    assert asker.wait(2)[-1].head["code"] == "worker_crashed"
    stopped(signal.SIGCONT)
    detects(serving)
    assert is_answered(asker)
    assert len(asker.answers) == 3


def test_a_process_that_is_killed_while_it_looks_costs_no_answer(
    asker: Asker, serving: Serving, stopped: Callable[[int], None]
) -> None:
    asker.ask(**request(), correlation=b"boxes")
    until(lambda: sum(serving.workers[0].batches) == 2)
    (pid,) = finders()
    os.kill(pid, signal.SIGKILL)
    assert told(asker.wait(2)[-1])["boxes"] == BOXES


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ((slice(None), 4, np.nan), "NaN or an infinity"),
        ((slice(None), 4, np.inf), "NaN or an infinity"),
        ((1, 4, 7.0), "a score is 7, over 1"),
        ((1, 0, np.nan), "a box is NaN or infinite"),
        ((1, 5, 0.5), "class"),
        ((1, 5, -1), "class"),
    ],
)
def test_outputs_without_sense_are_an_error_and_the_next_request_is_answered(
    asker: Asker, serving: Serving, change: tuple[Any, int, float], why: str
) -> None:
    detects(serving)
    rows = ROWS.copy()
    rows[0, 0, change[0], change[1]] = change[2]
    refused = asker.one(**request(rows)).head
    assert (refused["code"], why in refused["error"]) == ("run_failed", True), refused
    assert is_answered(asker)


def test_a_class_without_a_label_is_named_by_its_number(asker: Asker, serving: Serving) -> None:
    detects(serving)
    rows = ROWS.copy()
    rows[0, 0, 1, 5] = 7
    assert told(asker.one(**request(rows)))["labels"] == ["7", "dog"]


def test_an_output_of_another_shape_than_declared_is_an_error(asker: Asker, serving: Serving) -> None:
    detects(serving, scores={"output": "y", "at": 9})
    refused = asker.one(**request()).head
    assert refused["code"] == "run_failed"
    assert "has 6 values of each candidate; scores need 10" in refused["error"]


def test_many_more_requests_than_slots_are_each_answered(asker: Asker, serving: Serving) -> None:
    """Those that wait for an arena get it when the boxes of another one are found."""
    worker = FakeWorker((-1, 1, -1, 6), slots=64, arenas=2)
    detects(serving, worker)
    for number in range(40):
        asker.ask(**request(max_detections=1 + number % 2), correlation=b"%d" % number)
    for answer in asker.wait(40):
        assert len(told(answer)["scores"]) == 1 + int(answer.correlation) % 2
    assert until(lambda: serving.plane.snapshot().models["double"].queue_depth == 0)


def test_requests_that_run_together_get_each_their_own_boxes(asker: Asker, serving: Serving) -> None:
    worker = FakeWorker((-1, 1, CANDIDATES, 6), slots=32)
    detects(serving, worker)
    worker.gate.clear()
    for number in range(20):
        rows = ROWS.copy()
        rows[0, 0, 1, 2] += number / 32
        asker.ask(**request(rows), correlation=b"%d" % number)
    until(lambda: serving.plane.snapshot().models["double"].queue_depth == 20)
    worker.gate.set()
    for answer in asker.wait(20):
        assert told(answer)["boxes"][2] == 5 + int(answer.correlation) / 32
    assert max(worker.batches) > 1


def test_a_client_of_mqtt_311_names_the_topic_of_its_answer_in_its_payload(asker: Asker, serving: Serving) -> None:
    detects(serving)
    said = {"detections": True, "response_topic": asker.reply_topic, "correlation_id": "7"}
    made = encode_request([Input("x", "FP32", ROWS / 2)], parameters=said, magic=True)
    answer = asker.one(made.payload, reply_to="")
    head = json.loads(answer.payload[8:])
    assert head["parameters"]["correlation_id"] == "7"
    assert [output["name"] for output in head["outputs"]] == ["boxes", "scores", "classes", "labels"]


def test_detections_of_tensors_are_of_one_item_of_the_pictures_size(asker: Asker, serving: Serving) -> None:
    detects(serving, FakeWorker((-1, 1, -1, 6), slots=4, arenas=2))
    assert is_answered(asker)
    for shape in ((1, 1, 9, 6), (2, 1, CANDIDATES, 6)):
        assert asker.one(**request(np.zeros(shape, np.float32))).head["code"] == "wrong_shape"
