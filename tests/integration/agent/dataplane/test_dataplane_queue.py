"""Requests of free size wait for an arena in a bounded queue, in their order, and are answered whatever happens."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from agent.worker.handle import start_worker
from agent.worker.measure import Measurement
from agent.worker.spec import WorkerSpec
from registry.contracts.catalogue.manifest import ImageInput
from tests.fakes.workers import FakeWorker, binding_for
from tests.support.clients.asking import Asker, binary_request
from tests.support.clients.serving import Serving, until
from tests.support.models import onnx_models
from tests.support.network.broker import Mosquitto


@pytest.fixture
def serving(broker: Mosquitto, tmp_path: Path) -> Iterator[Serving]:
    device = Serving(broker.port, tmp_path, fast=True)
    device.start()
    yield device
    device.stop()


@pytest.fixture
def asker(serving: Serving, broker: Mosquitto) -> Iterator[Asker]:
    client = Asker(broker.port, serving.infer())
    yield client
    client.close()


def rows(number: int, count: int = 2) -> NDArray[np.float32]:
    return np.full(4 * count, number, np.float32)


def ask(asker: Asker, number: int, count: int = 2, expiry: int | None = None) -> None:
    payload, length = binary_request(rows(number, count), rows=count)
    asker.ask(payload, header_length=length, correlation=b"%d" % number, expiry=expiry)


def depth(serving: Serving) -> int:
    return serving.plane.snapshot().models["double"].queue_depth


@pytest.mark.parametrize("count", [2, 50_000])
def test_more_requests_than_arenas_are_all_answered_right(asker: Asker, serving: Serving, count: int) -> None:
    serving.serve(FakeWorker(arenas=2))
    for number in range(12):
        ask(asker, number, count)
    for answer in asker.wait(12):
        np.testing.assert_array_equal(answer.tensor(), rows(int(answer.correlation), count) * 2)


@pytest.mark.parametrize("count", [2, 50_000])
@pytest.mark.parametrize("shape", [(-1, 4), (-1, -1)])
def test_the_queue_has_an_end(asker: Asker, serving: Serving, shape: tuple[int, ...], count: int) -> None:
    worker = FakeWorker(shape, slots=4, arenas=1)
    worker.gate.clear()
    serving.serve(worker)
    for number in range(7):
        ask(asker, number, count)
    refused = asker.wait(2)
    assert [(each.correlation, each.head["code"]) for each in refused] == [(b"5", "overloaded"), (b"6", "overloaded")]
    assert "4 requests of this model wait, the most that may" in refused[0].head["error"]
    worker.gate.set()
    assert [answer.correlation for answer in asker.wait(7)[2:]] == [b"0", b"1", b"2", b"3", b"4"]


def picture(value: int) -> bytes:
    png = io.BytesIO()
    Image.fromarray(np.full((2, 2), value, np.uint8)).save(png, "PNG")
    return png.getvalue()


def how_pictures_are_taken(side: int = 2) -> ImageInput:
    return ImageInput(input="x", height=side, width=side, channels="L", scale=1.0)


@pytest.mark.parametrize(
    ("shape", "limit", "why"),
    [
        ((-1, 1, -1, -1), 62, "requests of this model wait, the most that may"),
        ((-1, 1, 2, 2), 60, "the 60 places of this model for requests of one item are taken"),
    ],
    ids=["free", "fixed"],
)
def test_as_many_pictures_as_the_model_says_are_held_and_the_next_is_refused_at_once(
    asker: Asker, serving: Serving, shape: tuple[int, ...], limit: int, why: str
) -> None:
    worker = FakeWorker(shape, slots=60, arenas=2)
    worker.gate.clear()
    serving.serve(worker, image=how_pictures_are_taken())
    assert until(lambda: serving.plane.snapshot().models["double"].queue_limit) == limit
    for number in range(limit + 1):
        asker.ask(picture(number), content_type="image/png", correlation=b"%d" % number)
    (refused,) = asker.wait(1)
    assert (refused.correlation, refused.head["code"]) == (b"%d" % limit, "overloaded")
    assert why in refused.head["error"]
    worker.gate.set()
    for answer in asker.wait(limit + 1)[1:]:
        assert answer.head["outputs"][0]["data"] == [2 * int(answer.correlation)] * 4


def test_pictures_wait_with_the_bytes_of_their_tensors(asker: Asker, serving: Serving) -> None:
    worker = FakeWorker((-1, 1, -1, -1), arenas=1, arena_bytes=8 << 20)
    worker.gate.clear()
    serving.serve(worker, image=how_pictures_are_taken(side=1024))
    asker.ask(b'{"inputs": [{"name": "x", "shape": [1, 1, 1, 1], "datatype": "FP32", "data": [1]}]}')
    for number in range(16):  # 4 MiB each, and the file
        asker.ask(picture(number), content_type="image/png", correlation=b"%d" % number)
    (refused,) = asker.wait(1)
    assert (refused.correlation, refused.head["code"]) == (b"15", "overloaded")
    assert "over the limit of 67108864" in refused.head["error"]
    worker.die()
    assert {answer.head["code"] for answer in asker.wait(17)[1:]} == {"worker_crashed"}


def test_a_process_answers_as_many_requests_of_free_size_as_the_model_says(
    asker: Asker, serving: Serving, tmp_path: Path
) -> None:
    folder = onnx_models.write(tmp_path / "model", onnx_models.one_op("Neg", ["N", "C", "H", "W"]))
    measured = Measurement(run_us=10.0, max_batch=1, lanes=1, fixed=True)
    spec = WorkerSpec("double", "onnxruntime", folder, "model.onnx", slots=16, arenas=2, known=measured)
    worker = start_worker(spec)
    try:
        serving.plane.swap("double", worker, binding_for(worker, image=how_pictures_are_taken()))
        limit = until(lambda: serving.plane.snapshot().models["double"].queue_limit)
        assert limit == 18
        for number in range(limit):
            asker.ask(picture(number), content_type="image/png", correlation=b"%d" % number)
        for answer in asker.wait(limit):
            assert answer.head["outputs"][0]["data"] == [-int(answer.correlation)] * 4
    finally:
        serving.plane.stop(5)
        worker.close(5)


def test_a_deadline_that_passes_in_the_queue_is_told_and_nothing_runs(asker: Asker, serving: Serving) -> None:
    worker = FakeWorker(arenas=1)
    worker.gate.clear()
    serving.serve(worker)
    ask(asker, 0)
    ask(asker, 1, expiry=1)
    ask(asker, 2)
    late = asker.wait(1)  # while the runner is still busy
    assert (late[0].correlation, late[0].head["code"]) == (b"1", "deadline_exceeded")
    worker.gate.set()
    assert {answer.correlation for answer in asker.wait(3)[1:]} == {b"0", b"2"}
    assert sum(worker.batches) == 2


def test_a_worker_that_dies_fails_what_waits_for_it(asker: Asker, serving: Serving) -> None:
    worker = FakeWorker(arenas=1)
    worker.gate.clear()
    serving.serve(worker)
    for number in range(3):
        ask(asker, number)
    until(lambda: depth(serving) == 3)
    worker.die()
    assert [answer.head["code"] for answer in asker.wait(3)] == ["worker_crashed"] * 3


def test_a_swap_lets_the_old_worker_answer_what_waits_for_it(asker: Asker, serving: Serving) -> None:
    old = FakeWorker(arenas=1)
    old.gate.clear()
    serving.serve(old)
    for number in range(5):
        ask(asker, number)
    until(lambda: depth(serving) == 5)
    drained = serving.serve(FakeWorker(), version="2.0.0")
    ask(asker, 5)
    first = asker.wait(1)
    assert first[0].head["model_version"] == "2.0.0"
    old.gate.set()
    assert drained.result(10) is old
    assert [answer.head["model_version"] for answer in asker.wait(6)[1:]] == ["1.0.0"] * 5


class InlineWorker(FakeWorker):
    """Runs in the data thread: the first run waits for `gate`, those after the second for `allowed`."""

    def __init__(self) -> None:
        super().__init__(arenas=1, lanes=0)
        self.gate.clear()
        self.allowed = threading.Event()
        self.runs: list[bool] = []
        """Of each run: what it waited for was there."""

    def run(self, ids: Sequence[int]) -> None:
        waits = {0: self.gate, 1: None}.get(len(self.runs), self.allowed)
        self.runs.append(False)
        self.runs[-1] = waits is None or waits.wait(30)
        super().run(ids)


def test_a_model_in_the_agents_process_answers_between_two_runs_of_its_queue(
    asker: Asker, serving: Serving, broker: Mosquitto
) -> None:
    worker = InlineWorker()
    serving.serve(worker)
    witness = Asker(broker.port, serving.infer(), listen=(serving.infer(),))
    ask(asker, 0)
    until(lambda: worker.runs)
    for number in range(1, 4):  # they are read together, once the first has run
        ask(asker, number)
    witness.wait(4)
    worker.gate.set()
    asker.wait(2)
    worker.allowed.set()
    asker.wait(4)
    assert worker.runs == [True] * 4
    witness.close()
