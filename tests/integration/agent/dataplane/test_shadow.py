"""A candidate in the shadow of what serves: it sees live requests, its answers are compared and never sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.dataplane.shadow import Shadow
from agent.worker.handle import start_worker
from agent.worker.measure import Measurement
from agent.worker.spec import Worker, WorkerSpec
from registry.contracts.catalogue.manifest import Tolerance
from tests.fakes.workers import FakeWorker, binding_for
from tests.support.clients.asking import Asker, binary_request
from tests.support.clients.serving import Serving, until
from tests.support.models import onnx_models
from tests.support.network.broker import Mosquitto

X = np.array([[1, 2, 3, 4]], np.float32)
MANY = np.arange(12, dtype=np.float32).reshape(3, 4)
KNOWN = Measurement(run_us=10.0, max_batch=4, lanes=1, fixed=True)


@pytest.fixture
def serving(broker: Mosquitto, tmp_path: Path) -> Iterator[Serving]:
    """y = 2 * x, asked over MQTT."""
    device = Serving(broker.port, tmp_path)
    device.serve(FakeWorker())
    device.start()
    yield device
    device.stop()


@pytest.fixture
def asker(serving: Serving, broker: Mosquitto) -> Iterator[Asker]:
    client = Asker(broker.port, serving.infer())
    yield client
    client.close()


@pytest.fixture
def candidate(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts a real worker on y = factor * x."""
    workers: list[Worker] = []

    def start(factor: float, width: int = 4) -> Worker:
        directory = onnx_models.write(tmp_path / f"candidate{len(workers)}", onnx_models.scaled(factor, width))
        workers.append(
            start_worker(WorkerSpec("double", "onnxruntime", directory, "model.onnx", slots=16, known=KNOWN))
        )
        return workers[-1]

    yield start
    for worker in workers:
        worker.close(5.0)


def ask(asker: Asker, values: np.ndarray, times: int = 1) -> None:
    for _ in range(times):
        payload, length = binary_request(values, rows=len(values))
        answer = asker.one(payload, header_length=length)
        np.testing.assert_array_equal(answer.tensor(), 2 * values.ravel())


@pytest.mark.parametrize("values", [X, MANY], ids=["a fixed slot", "an arena"])
def test_a_candidate_that_answers_alike_agrees_and_clients_notice_nothing(
    serving: Serving, asker: Asker, candidate: Callable[..., Worker], values: np.ndarray
) -> None:
    shadow = Shadow(candidate(2.0), 1.0, Tolerance())
    serving.plane.attach("double", shadow).result(5)
    ask(asker, values, 10)
    figures = until(lambda: (found := shadow.figures()).compared + found.skipped == 10 and found)
    assert (figures.errors, figures.agreement, figures.max_abs) == (0, 1.0, 0.0)
    assert figures.latency_ratio is not None
    assert shadow.close(5)


def test_a_candidate_that_answers_otherwise_is_found_out_while_clients_get_the_active_answer(
    serving: Serving, asker: Asker, candidate: Callable[..., Worker]
) -> None:
    shadow = Shadow(candidate(-2.0), 1.0, Tolerance())
    serving.plane.attach("double", shadow).result(5)
    ask(asker, X, 5)
    figures = until(lambda: (found := shadow.figures()).compared + found.skipped == 5 and found)
    assert (figures.agreement, figures.max_abs, figures.mean_abs) == (0.0, 16.0, 16.0)
    shadow.close(5)


@pytest.mark.parametrize(
    ("scores", "agreement"), [("y", 1.0), (None, 0.0)], ids=["a classifier", "a regression of four numbers"]
)
def test_other_numbers_in_the_same_order_are_the_same_answer_of_a_classifier_only(
    serving: Serving, asker: Asker, candidate: Callable[..., Worker], scores: str | None, agreement: float
) -> None:
    shadow = Shadow(candidate(3.0), 1.0, Tolerance(), scores)
    serving.plane.attach("double", shadow).result(5)
    ask(asker, X, 5)
    figures = until(lambda: (found := shadow.figures()).compared + found.skipped == 5 and found)
    assert (figures.agreement, figures.max_abs) == (agreement, 4.0)
    shadow.close(5)


def test_only_the_asked_share_of_requests_is_compared(
    serving: Serving, asker: Asker, candidate: Callable[..., Worker]
) -> None:
    shadow = Shadow(candidate(2.0), 0.25, Tolerance())
    serving.plane.attach("double", shadow).result(5)
    ask(asker, X, 40)
    figures = until(lambda: (found := shadow.figures()).compared + found.skipped == 10 and found)
    assert figures.errors == 0
    shadow.close(5)


def test_a_candidate_that_takes_other_inputs_is_counted_as_failing(
    serving: Serving, asker: Asker, candidate: Callable[..., Worker]
) -> None:
    shadow = Shadow(candidate(2.0, width=3), 1.0, Tolerance())
    serving.plane.attach("double", shadow).result(5)
    ask(asker, X, 4)
    figures = until(lambda: (found := shadow.figures()).errors + found.skipped == 4 and found)
    assert (figures.compared, figures.agreement) == (0, None)
    assert shadow.close(5)


def test_a_candidate_that_dies_ends_its_shadow_and_nothing_else(
    serving: Serving, asker: Asker, candidate: Callable[..., Worker]
) -> None:
    worker = candidate(2.0)
    shadow = Shadow(worker, 1.0, Tolerance())
    serving.plane.attach("double", shadow).result(5)
    worker.kill()
    ask(asker, X, 3)
    until(lambda: shadow.failure)
    ask(asker, X, 3)
    assert not shadow.close(5)


def test_a_shadow_that_was_closed_leaves_an_idle_candidate_that_can_serve(
    serving: Serving, asker: Asker, candidate: Callable[..., Worker]
) -> None:
    worker = candidate(2.0)
    shadow = Shadow(worker, 1.0, Tolerance())
    serving.plane.attach("double", shadow).result(5)
    ask(asker, X, 5)
    serving.plane.detach("double", shadow).result(5)
    assert shadow.close(5)
    before = shadow.figures()
    serving.plane.swap("double", worker, binding_for(serving.workers[0], "double"))
    ask(asker, X, 3)
    assert shadow.figures() == before
