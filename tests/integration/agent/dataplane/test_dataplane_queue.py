"""Requests of free size wait for an arena in a bounded queue, in their order, and are answered whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fakes.workers import FakeWorker
from tests.support.clients.asking import Asker, binary_request
from tests.support.clients.serving import Serving, until
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


def test_the_queue_has_an_end(asker: Asker, serving: Serving) -> None:
    worker = FakeWorker(slots=4, arenas=1)
    worker.gate.clear()
    serving.serve(worker)
    for number in range(7):
        ask(asker, number)
    refused = asker.wait(2)
    assert [(each.correlation, each.head["code"]) for each in refused] == [(b"5", "overloaded"), (b"6", "overloaded")]
    worker.gate.set()
    assert [answer.correlation for answer in asker.wait(7)[2:]] == [b"0", b"1", b"2", b"3", b"4"]


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
